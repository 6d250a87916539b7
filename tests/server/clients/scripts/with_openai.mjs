// OpenAI's own SDK for JavaScript, with nothing changed but its base URL and key.

import OpenAI, { toFile } from "openai";

import { FAILING, KEY, POOR_KEY, PROMPT, URL, WRONG_KEY, picture, run, sent } from "./cases.mjs";

const QUICK = { num_inference_steps: 4, scheduler: "DDIM", seed: 7 };
const MODEL = "gpt-image-1"; // any name is taken; many programs cannot change theirs
// The SDK also fetches a data: URI, to find out whether this fetch can send forms.
const noting = (url, options) => {
  if (String(url).startsWith("http")) sent.push(url);
  return fetch(url, options);
};
const clientWith = (apiKey) => new OpenAI({ baseURL: `${URL}/v1`, apiKey, fetch: noting });
const client = clientWith(KEY);

const png = (name) => toFile(picture(name), name, { type: "image/png" });
const bytes = (data) => data.map(({ b64_json }) => Buffer.from(b64_json, "base64"));

// Fields that the SDK does not know are sent as they are.
async function request(image, mask, fields) {
  const files = { image: await png(image), ...(mask && { mask: await png(mask) }) };
  return { ...files, prompt: PROMPT, model: MODEL, ...QUICK, ...fields };
}

async function edit({ image = "photo.png", mask = "hole.png", key = KEY, ...fields } = {}) {
  const answer = await clientWith(key).images.edit(await request(image, mask, fields));
  return { files: bytes(answer.data), facts: { created: answer.created, size: answer.size } };
}

async function generate() {
  const answer = await client.images.generate({ prompt: PROMPT, model: MODEL, size: "128x96", ...QUICK });
  return { files: bytes(answer.data), facts: { size: answer.size } };
}

async function stream() {
  const fields = { stream: true, partial_images: 2, num_inference_steps: 12 };
  const events = [];
  for await (const event of await client.images.edit(await request("photo.png", "hole.png", fields))) {
    events.push(event);
  }
  const facts = {
    types: events.map(({ type }) => type),
    indices: events.slice(0, -1).map(({ partial_image_index }) => partial_image_index),
    total_tokens: events.at(-1).usage.total_tokens,
  };
  return { files: bytes(events), facts };
}

async function models() {
  const names = [];
  for await (const model of client.models.list()) names.push(model.id);
  return { facts: { names, retrieved: (await client.models.retrieve(names[0])).id } };
}

await run({
  hole: edit,
  exact: () => edit({ grow: 0, feather: 0 }),
  white: () => edit({ mask: "white.png" }),
  own_alpha: () => edit({ image: "cutout.png", mask: null }),
  no_mask: () => edit({ mask: null }),
  three: () => edit({ n: 3 }),
  second: () => edit({ seed: 8 }),
  webp: () => edit({ output_format: "webp" }),
  generate,
  stream,
  models,
  bad_field: () => edit({ strength: 5 }),
  bad_n: () => edit({ n: 11 }),
  bad_size: () => edit({ mask: "small.png" }),
  not_a_picture: () => edit({ image: "text.png" }),
  too_large: () => edit({ image: "large.png" }),
  no_model: () => client.models.retrieve("no-such-model"),
  no_route: async () => client.images.createVariation({ image: await png("photo.png") }),
  wrong_key: () => clientWith(WRONG_KEY).models.list(),
  no_credits: () => edit({ key: POOR_KEY }),
  failed: () => edit({ prompt: FAILING }),
});
