// The example of the README for tests of a page, as it is printed there.
import { readFileSync } from "node:fs";

const readme = readFileSync(new URL("../README.md", import.meta.url), "utf8");
const [, example] = /```js\n(import assert.*?)```/s.exec(readme);
const source = example.replaceAll(/"@fastapi-websocket-stabilizer\/client(?:\/(\w+))?"/g, (_, entry = "client") => `"${new URL(`../src/${entry}.js`, import.meta.url)}"`);
await import(`data:text/javascript,${encodeURIComponent(source)}`);
