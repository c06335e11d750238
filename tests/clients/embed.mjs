// Embeds texts with the client named: {client, url, model, texts} on standard input, vectors on standard output.
import { readFileSync } from "node:fs";

const { client, url, model, texts } = JSON.parse(readFileSync(0, "utf8"));
const clients = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const answer = await new OpenAI({ baseURL: url, apiKey: "any" }).embeddings.create({ model, input: texts });
    return answer.data.map((item) => item.embedding);
  },
  async langchain() {
    const { OpenAIEmbeddings } = await import("@langchain/openai");
    return new OpenAIEmbeddings({ model, apiKey: "any", configuration: { baseURL: url } }).embedDocuments(texts);
  },
};
console.log(JSON.stringify(await clients[client]()));
