// SPDX-License-Identifier: Apache-2.0
//
// Times llama.cpp's Vulkan backend, as the npm package node-llama-cpp ships it, and prints a line of JSON a test:
//
//     node llama.mjs PACKAGE_DIR MODEL N_PROMPT N_GENERATE [NODE [BYTES]]
//
// A test of 0 tokens is left out. Like `scoria bench`, both tests start with an empty context and generation feeds any
// tokens one by one, asking for the logits of each. NODE starts the package's own child process, which tries out the
// driver; it is this program unless given. With BYTES of device memory llama.cpp gets as many whole layers as fit.
import {stat} from "node:fs/promises";
import {createRequire} from "node:module";
import {pathToFileURL} from "node:url";

const [packageDir, model, nPrompt, nGenerate, node, bytes] = process.argv.slice(2);
const resolve = createRequire(pathToFileURL(packageDir + "/")).resolve;
const {getLlama, LlamaLogLevel, readGgufFileInfo} = await import(pathToFileURL(resolve("node-llama-cpp")));

if (node)
    process.execPath = node;
const llama = await getLlama({gpu: "vulkan", build: "never", progressLogs: false, logLevel: LlamaLogLevel.error});
const longest = Math.max(+nPrompt, +nGenerate);

// Its own guess of what would fit is taken from the free memory of the moment.
async function layersThatFit() {
    if (!bytes)
        return "max";
    const info = await readGgufFileInfo(model), m = info.metadata.llama, heads = m.attention;
    const size = t => Number(t.dimensions.reduce((a, b) => a * BigInt(b), 1n));
    const kv = 4 * (longest + 64) * heads.head_count_kv * (m.embedding_length / heads.head_count);
    const all = info.fullTensorInfo.reduce((sum, t) => sum + size(t), 0);
    const layers = info.fullTensorInfo.filter(t => t.name.startsWith("blk.")).reduce((sum, t) => sum + size(t), 0);
    const perLayer = (await stat(model)).size * layers / all / m.block_count + kv;
    return Math.max(0, Math.min(m.block_count, Math.floor((+bytes - 300e6) / perLayer)));
}

const gpuLayers = await layersThatFit();
const loaded = await llama.loadModel({modelPath: model, gpuLayers, ignoreMemorySafetyChecks: true});
const context = await loaded.createContext({
    contextSize: longest + 64, batchSize: Math.max(longest, 512), flashAttention: true
});
const sequence = context.getSequence();
const vocabulary = loaded.fileInfo.metadata.tokenizer.ggml.tokens.length;
const tokens = Array.from({length: longest}, (_, i) => (i * 7919 + 300) % vocabulary);

async function prompt(n) {
    await sequence.evaluateWithoutGeneratingNewTokens(tokens.slice(0, n));
}

async function generate(n) {
    for (let i = 0; i < n; i++)
        await sequence.controlledEvaluate([[tokens[i], {generateNext: {token: true, options: {temperature: 0}}}]]);
}

// Tokens per second, after a run that made the driver compile what this test needs: from 1 to 2 minutes the first time.
async function measure(test, n, nWarmup) {
    await sequence.clearHistory();
    await test(Math.min(n, nWarmup));
    await sequence.clearHistory();
    const start = performance.now();
    await test(n);
    return n / (performance.now() - start) * 1e3;
}

async function report(name, test, n, nWarmup) {
    if (n)
        console.log(JSON.stringify({
            version: llama.llamaCppRelease.release, device: (await llama.getGpuDeviceNames())[0], gpuLayers: loaded.gpuLayers,
            test: name + n, ts: await measure(test, n, nWarmup)
        }));
}

await report("tg", generate, +nGenerate, 2);
await report("pp", prompt, +nPrompt, +nPrompt);
process.exit(0);
