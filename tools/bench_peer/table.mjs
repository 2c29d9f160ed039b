// SPDX-License-Identifier: Apache-2.0
//
// Prints what tools/bench-peer has measured: node table.mjs RESULTS_DIR [--page KEY=VALUE...]
//
// RESULTS_DIR holds a file per program and round, of `scoria bench --json` and of llama.mjs. With --page the table stands in a
// page that says what was measured, and where.
import fs from "node:fs";
import os from "node:os";
import path from "node:path";

const [dir, ...rest] = process.argv.slice(2);
const files = fs.readdirSync(dir).sort();
const read = (name) => fs.readFileSync(path.join(dir, name), "utf8");

const runs = {scoria: new Map(), llama: new Map()}; // test name -> tokens per second of each run
const about = {scoria: {}, llama: {}};
function add(program, test, speed) {
    if (!runs[program].has(test))
        runs[program].set(test, []);
    runs[program].get(test).push(speed);
}
for (const name of files.filter((f) => f.startsWith("scoria-")))
    for (const result of JSON.parse(read(name))) {
        about.scoria = result;
        for (const speed of result.samples_ts)
            add("scoria", result.test + (result.n_prompt + result.n_gen), speed);
    }
for (const name of files.filter((f) => f.startsWith("llama-")))
    for (const line of read(name).split("\n").filter((l) => l.startsWith("{"))) {
        about.llama = JSON.parse(line);
        add("llama", about.llama.test, about.llama.ts);
    }

const best = (speeds) => Math.max(...speeds);
function median(speeds) {
    const s = [...speeds].sort((a, b) => a - b), half = s.length >> 1;
    return s.length % 2 ? s[half] : (s[half - 1] + s[half]) / 2;
}
function cells(speeds) {
    return speeds ? [best(speeds).toFixed(2), median(speeds).toFixed(2), String(speeds.length)] : ["-", "-", "0"];
}

const head = ["test", "Scoria, best t/s", "median", "runs", "llama.cpp, best t/s", "median", "runs", "ratio of the best", "of the medians"];
const rows = [...runs.scoria].map(([test, ours]) => {
    const theirs = runs.llama.get(test);
    const ratios = theirs ? [best(ours) / best(theirs), median(ours) / median(theirs)].map((r) => r.toFixed(2) + "x") : ["-", "-"];
    return [test, ...cells(ours), ...cells(theirs), ...ratios];
});
const widths = head.map((h, i) => Math.max(h.length, ...rows.map((r) => r[i].length)));
const line = (row) => "| " + row.map((c, i) => i ? c.padStart(widths[i]) : c.padEnd(widths[i])).join(" | ") + " |";
const rule = "| " + widths.map((w, i) => i ? "-".repeat(w - 1) + ":" : "-".repeat(w)).join(" | ") + " |";
const table = [line(head), rule, ...rows.map(line)].join("\n");

if (rest[0] !== "--page") {
    console.log(table);
    process.exit(0);
}

const o = Object.fromEntries(rest.slice(1).map((a) => [a.slice(0, a.indexOf("=")), a.slice(a.indexOf("=") + 1)]));
const gb = (bytes) => (bytes / 1e9).toFixed(2) + " GB";
const cpus = os.cpus();
console.log(`# Scoria and llama.cpp, ${o.driver}, ${new Date().toISOString().slice(0, 10)}

| | |
| --- | --- |
| machine | ${cpus[0].model}, ${cpus.length} cores, ${Math.round(os.totalmem() / 2 ** 30)} GiB |
| device | ${about.scoria.device} |
| driver | ${about.scoria.driver} |
| model | ${o.model}, ${gb(+o.size)} |
| Scoria | commit ${o.commit} |
| llama.cpp | ${about.llama.version ?? "-"}, Vulkan backend of node-llama-cpp ${o.package}; ${about.llama.device ?? "no result"} |

${table}

The programs took turns, a fresh process each time. pp is a prompt read in one batch, tg are tokens fed one by one with the
logits of each, both into an empty context, after a warm-up. A test in which llama.cpp needs over a minute ran once for it.
${o.note ? "\n" + o.note + "\n" : ""}
To repeat: \`tools/bench-peer --driver ${o.driver}\`.`);
