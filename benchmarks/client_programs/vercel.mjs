// Vercel's AI SDK, by three of its providers.

import { createAnthropic } from "@ai-sdk/anthropic";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const [baseURL, apiKey] = [process.env.BASE_URL, process.env.API_KEY];
const openai = createOpenAI({ baseURL, apiKey });
const models = {
  "openai": openai("m"),
  "openai chat": openai.chat("m"),
  "compatible": createOpenAICompatible({ name: "c", baseURL, apiKey })("m"),
  "anthropic": createAnthropic({ baseURL, apiKey })("m"),
};
const weather = tool({
  description: "The weather of a city.", inputSchema: z.object({ city: z.string() }), execute: async () => "fine",
});
const schema = z.object({ name: z.string(), age: z.number() });
const who = "Who is Person? Answer in JSON.";
const fine = "It is fine.";

async function attempt(use, work, wanted) {
  let [ok, said] = [false, ""];
  try {
    said = await work();
    said = typeof said === "string" ? said : JSON.stringify(said);
    ok = said === wanted;
  } catch (error) {
    said = `${error.name}: ${error.message}`;
  }
  console.log(`{"use": ${JSON.stringify(use)}, "ok": ${ok}, "said": ${JSON.stringify(said.replace(/\s+/g, " ").slice(0, 160))}}`);
}

for (const [name, model] of Object.entries(models)) {
  await attempt(name, async () => (await generateText({ model, prompt: "Hello?" })).text, fine);
  await attempt(`${name}, streamed`, async () => {
    let text = "";
    for await (const part of streamText({ model, prompt: "Hello?" }).textStream) text += part;
    return text;
  }, fine);
  await attempt(`${name}, tools`, async () =>
    (await generateText({ model, prompt: "The weather?", tools: { weather }, stopWhen: stepCountIs(4) })).text, fine);
  await attempt(`${name}, object`, async () => (await generateObject({ model, schema, prompt: who })).object, '{"name":"Ann","age":3}');
}
