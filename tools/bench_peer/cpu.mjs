// SPDX-License-Identifier: Apache-2.0
//
// Our experts on the CPU beside llama.cpp's CPU backend, in turn, on one model: the table of tools/bench-cpu-peer.
//
//     node cpu.mjs BENCH_CPU_MODEL PACKAGE_DIR MODEL THREADS ROUNDS N_PROMPT...
//
// Both programs run all the time, and the one that is not asked sleeps. GFLOP/s: ours are the experts' matrices alone, llama.cpp's
// the whole prompt: experts, attention's matrices, and the output of one token. What it does besides costs it time and is not counted.
import {spawn} from "node:child_process";
import path from "node:path";
import readline from "node:readline";
import {fileURLToPath} from "node:url";

const [ours, packageDir, model, threads, rounds, ...prompts] = process.argv.slice(2);
const peerScript = path.join(path.dirname(fileURLToPath(import.meta.url)), "llama_cpu.mjs");

function start(command, args) {
    const child = spawn(command, args, {stdio: ["pipe", "pipe", "inherit"]});
    const lines = readline.createInterface({input: child.stdout})[Symbol.asyncIterator]();
    return {
        async ask() {
            child.stdin.write("\n");
            const {value, done} = await lines.next();
            if (done)
                throw new Error(command + " ended early");
            return JSON.parse(value);
        },
        stop: () => child.stdin.end()
    };
}

function median(values) {
    const s = [...values].sort((a, b) => a - b);
    return s[s.length >> 1];
}

const a = start(ours, [model, threads, ...prompts]);
const b = start(process.execPath, [peerScript, packageDir, model, threads, ...prompts]);
let [us, them] = [await a.ask(), await b.ask()]; // warm up
const speeds = Object.fromEntries(prompts.map((n) => [n, {us: [], them: [], ratio: []}]));
for (let i = 0; i < +rounds; i++) {
    [us, them] = [await a.ask(), await b.ask()];
    for (const n of prompts) {
        const s = speeds[n];
        s.us.push(us.flops_experts * n / us.seconds[n] * 1e-9);
        s.them.push((us.flops_all * n + us.flops_output) / them.seconds[n] * 1e-9);
        s.ratio.push(s.us.at(-1) / s.them.at(-1));
    }
}
a.stop();
b.stop();
console.log(`${path.basename(model)}, ${them.threads} threads, level ${us.level}, llama.cpp ${them.version} (CPU), ${rounds} rounds in turn, GFLOP/s\n`);
console.log("| prompt | ours, best | median | llama.cpp, best | median | ratio of the best | median ratio |");
console.log("|--:|--:|--:|--:|--:|--:|--:|");
for (const n of prompts) {
    const {us, them, ratio} = speeds[n], best = (v) => Math.max(...v);
    console.log(`| ${n} | ${best(us).toFixed(0)} | ${median(us).toFixed(0)} | ${best(them).toFixed(0)} | ${median(them).toFixed(0)} | ` +
        `${(best(us) / best(them)).toFixed(2)}x | ${median(ratio).toFixed(2)}x |`);
}
process.exit(0);
