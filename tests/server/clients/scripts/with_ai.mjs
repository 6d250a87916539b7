// Vercel's AI SDK with its two providers for the OpenAI API: the general one, and OpenAI's own.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateImage } from "ai";

import { KEY, PROMPT, URL, WRONG_KEY, picture, run } from "./cases.mjs";

// The general provider sends the options under its own name as fields of the request.
const QUICK = { num_inference_steps: 4, scheduler: "DDIM", seed: 7 };

const compatible = (apiKey) =>
  createOpenAICompatible({ name: "inpaint", baseURL: `${URL}/v1`, apiKey }).imageModel("sdxl-inpainting");

async function paint(model, { image = "photo.png", mask = "hole.png", n = 1, ...fields } = {}) {
  const images = image && [picture(image)];
  const result = await generateImage({
    model,
    prompt: images ? { text: PROMPT, images, ...(mask && { mask: picture(mask) }) } : PROMPT,
    n,
    ...(!images && { size: "128x96" }),
    providerOptions: { inpaint: { ...QUICK, ...fields }, openai: { quality: "low" } },
  });
  const warnings = result.warnings.map((warning) => warning.feature ?? warning.type);
  return { files: result.images.map(({ uint8Array }) => uint8Array), facts: { warnings } };
}

const edit = (options) => paint(compatible(KEY), options);

await run({
  hole: edit,
  exact: () => edit({ grow: 0, feather: 0 }),
  white: () => edit({ mask: "white.png" }),
  own_alpha: () => edit({ image: "cutout.png", mask: null }),
  no_mask: () => edit({ mask: null }),
  three: () => edit({ n: 3 }),
  second: () => edit({ seed: 8 }),
  generate: () => edit({ image: null }),
  of_openai: () => paint(createOpenAI({ baseURL: `${URL}/v1`, apiKey: KEY }).image("gpt-image-1"), { n: 2 }),
  bad_field: () => edit({ strength: 5 }),
  bad_size: () => edit({ mask: "small.png" }),
  not_a_picture: () => edit({ image: "text.png" }),
  too_large: () => edit({ image: "large.png" }),
  wrong_key: () => paint(compatible(WRONG_KEY)),
});
