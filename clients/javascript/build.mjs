// Builds what is published, beside the types: one file for `import` and one for `require`.
import { cpSync, readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const options = { entryPoints: ["src/client.js"], bundle: true, minify: true, target: "es2022" };
await build({ ...options, format: "esm", outfile: "dist/client.js" });
await build({ ...options, format: "cjs", outfile: "dist/client.cjs" });
for (const name of ["client", "errors", "frames", "machine"]) cpSync(`dist/${name}.d.ts`, `dist/${name}.d.cts`);
console.log(`dist/client.js: ${gzipSync(readFileSync("dist/client.js"), { level: 9 }).length} bytes, minified and gzipped`);
