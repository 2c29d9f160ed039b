// SPDX-License-Identifier: Apache-2.0
//
// Times prompts on llama.cpp's CPU backend, as the npm package node-llama-cpp ships it:
//
//     node llama_cpu.mjs PACKAGE_DIR MODEL THREADS N_PROMPT...
//
// Reads a line from standard input for each round, and answers it with a line of JSON: the seconds of each prompt, into
// an empty context. The first round warms up.
import {createRequire} from "node:module";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [packageDir, model, threads, ...prompts] = process.argv.slice(2);
const resolve = createRequire(pathToFileURL(packageDir + "/")).resolve;
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(resolve("node-llama-cpp")));

const llama = await getLlama({gpu: false, build: "never", progressLogs: false, logLevel: LlamaLogLevel.error, maxThreads: +threads});
const loaded = await llama.loadModel({modelPath: model, gpuLayers: 0, ignoreMemorySafetyChecks: true});
const longest = Math.max(...prompts.map(Number));
const context = await loaded.createContext({
    contextSize: longest + 64, batchSize: Math.max(longest, 512), flashAttention: true, threads: {ideal: +threads, min: +threads}
});
const sequence = context.getSequence();
const vocabulary = loaded.fileInfo.metadata.tokenizer.ggml.tokens.length;
const tokens = Array.from({length: longest}, (_, i) => (i * 7919 + 300) % vocabulary);

// With one thread the processor's time, so that other programs disturb less.
function now() {
    const {user, system} = process.cpuUsage();
    return threads === "1" ? (user + system) / 1e6 : performance.now() / 1e3;
}

for await (const _ of readline.createInterface({input: process.stdin})) {
    const seconds = {};
    for (const n of prompts) {
        await sequence.clearHistory();
        const start = now();
        await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, +n));
        seconds[n] = now() - start;
    }
    console.log(JSON.stringify({version: llama.llamaCppRelease.release, threads: context.currentThreads, seconds}));
}
process.exit(0);
