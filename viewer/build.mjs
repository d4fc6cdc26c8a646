/**
 * Builds the page into the Python package, or elsewhere: `node build.mjs [FOLDER]`.
 *
 * The bundle depends on the sources and the locked packages alone, so that tests can compare it.
 */

import { copyFile, mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = resolve(process.argv[2] ?? join(here, "../src/capecam/viewer/page"));

/** Leaves out decoders that would need WebAssembly; src/cogs.js has one for ZSTD without it. */
const withoutWasm = {
  name: "without-wasm",
  setup: (building) =>
    building.onLoad({ filter: /geotiff\/dist-module\/compression\/(lerc|zstd)\.js$/ }, () => ({
      contents: "export const zstd = null; export default null;",
    })),
};

const result = await build({
  absWorkingDir: here,
  entryPoints: { viewer: "src/main.js" },
  outdir: target,
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2023", "chrome117", "firefox119", "safari17.4"],
  legalComments: "none", // they are in licences.txt, whole
  pure: ["console.debug"], // of the FlatGeobuf reader, one for each request
  charset: "utf8",
  metafile: true,
  logLevel: "warning",
  plugins: [withoutWasm],
});

const packages = new Set();
for (const path of Object.keys(result.metafile.inputs)) {
  const inside = /^node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(path);
  if (inside) packages.add(inside[1]);
}
await mkdir(target, { recursive: true });
await copyFile(join(here, "src/index.html"), join(target, "index.html"));
const licences = await Promise.all([...packages].sort().map(licence));
await writeFile(join(target, "licences.txt"), licences.join(`\n${"=".repeat(79)}\n\n`));

async function licence(name) {
  const folder = join(here, "node_modules", name);
  const { version, license } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
  const file = (await readdir(folder)).find((entry) => /^licen[cs]e(\.|$)/i.test(entry));
  if (!file) throw new Error(`${name}: no file with its licence`);
  const text = await readFile(join(folder, file), "utf8");
  return `${name} ${version} (${license})\n\n${text.trim()}\n`;
}
