// Register a signing key, sign with it, and take it back; AGENTZERO_SERVER, AGENTZERO_API_KEY.
import { createHash, createHmac, generateKeyPairSync, randomBytes, sign } from "node:crypto";

const server = process.env.AGENTZERO_SERVER ?? "http://127.0.0.1:8000";
const KEYS = "/api/v1/signing-keys";

// The headers of RFC 9421 for one request; `key` is { keyid, sign: (bytes) => Buffer }.
function signatureHeaders(method, url, body, key) {
  const headers = {};
  const covered = { "@method": method, "@authority": url.host, "@path": url.pathname };
  if (url.search) covered["@query"] = url.search;
  if (body) {
    const digest = createHash("sha256").update(body).digest("base64");
    covered["content-digest"] = headers["Content-Digest"] = `sha-256=:${digest}:`;
  }
  const components = Object.keys(covered).map((name) => `"${name}"`).join(" ");
  const created = Math.floor(Date.now() / 1000);
  const nonce = randomBytes(18).toString("base64url");
  const parameters = `(${components});created=${created};keyid="${key.keyid}";nonce="${nonce}"`;
  const lines = Object.entries(covered).map(([name, value]) => `"${name}": ${value}`);
  const base = [...lines, `"@signature-params": ${parameters}`].join("\n");
  headers["Signature-Input"] = `sig=${parameters}`;
  headers["Signature"] = `sig=:${key.sign(Buffer.from(base)).toString("base64")}:`;
  return headers;
}

async function send(method, path, { body, key } = {}) {
  const url = new URL(path, server);
  const content = body && JSON.stringify(body);
  const answer = await fetch(url, {
    method,
    body: content,
    headers: {
      Authorization: `Bearer ${process.env.AGENTZERO_API_KEY}`,
      ...(content && { "Content-Type": "application/json" }),
      ...(key && signatureHeaders(method, url, content, key)),
    },
  });
  return { ok: answer.ok, body: await answer.json() };
}

function check(answer) {
  if (!answer.ok) throw new Error(`${answer.body.code}: ${answer.body.detail}`);
  return answer.body;
}

const { publicKey, privateKey } = generateKeyPairSync("ed25519");
const publicText = publicKey.export({ type: "spki", format: "der" }).toString("base64");
const laptop = check(
  await send("POST", KEYS, {
    body: { name: "laptop", algorithm: "ed25519", public_key: publicText },
  }),
);
const unsigned = await send("DELETE", `${KEYS}/${laptop.signing_key_id}`);
console.log("unsigned:", unsigned.body.code);

const ed25519 = { keyid: laptop.signing_key_id, sign: (bytes) => sign(null, bytes, privateKey) };
const machine = check(
  await send("POST", KEYS, { body: { name: "machine", algorithm: "hmac-sha256" }, key: ed25519 }),
);
console.log("ed25519: registered", machine.name);

const secret = Buffer.from(machine.secret, "base64");
const hmac = {
  keyid: machine.signing_key_id,
  sign: (bytes) => createHmac("sha256", secret).update(bytes).digest(),
};
for (const key of [laptop, machine]) {
  check(await send("DELETE", `${KEYS}/${key.signing_key_id}`, { key: hmac }));
  console.log("hmac-sha256: revoked", key.name);
}
