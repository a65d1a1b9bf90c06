// Builds what is published, beside the types: one file for `import` and one for `require` of each entry.
import { cpSync, readdirSync, writeFileSync } from "node:fs";
import { bundle, sizeOf } from "./size.mjs";

for (const name of ["client", "react", "testing"]) {
  const module = await bundle(name, "esm");
  writeFileSync(`dist/${name}.js`, module);
  writeFileSync(`dist/${name}.cjs`, await bundle(name, "cjs"));
  console.log(`dist/${name}.js: ${sizeOf(module)} bytes, minified and gzipped`);
}
for (const name of readdirSync("dist")) if (name.endsWith(".d.ts")) cpSync(`dist/${name}`, `dist/${name.replace(/ts$/, "cts")}`);
