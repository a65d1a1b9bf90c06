// Builds what is published, beside the types: one file for `import` and one for `require` of each entry.
import { cpSync, readFileSync, readdirSync } from "node:fs";
import { gzipSync } from "node:zlib";
import { build } from "esbuild";

const options = { bundle: true, minify: true, target: "es2022", external: ["react"] };
for (const name of ["client", "react", "testing"]) {
  await build({ ...options, entryPoints: [`src/${name}.js`], format: "esm", outfile: `dist/${name}.js` });
  await build({ ...options, entryPoints: [`src/${name}.js`], format: "cjs", outfile: `dist/${name}.cjs` });
  console.log(`dist/${name}.js: ${gzipSync(readFileSync(`dist/${name}.js`), { level: 9 }).length} bytes, minified and gzipped`);
}
for (const name of readdirSync("dist")) if (name.endsWith(".d.ts")) cpSync(`dist/${name}`, `dist/${name.replace(/ts$/, "cts")}`);
