// Every operation at a fixed rate, for k6. `python -m benchmarks.operations` runs it; see there.
//
// PLAN is a file with two lists of requests; each iteration takes the next one of its list.

import http from "k6/http";
import exec from "k6/execution";
import { SharedArray } from "k6/data";
import { Counter, Trend } from "k6/metrics";

const { URL, PLAN, SUMMARY } = __ENV;
const RATE = Number(__ENV.RATE);
const HASHING_PER_SECOND = Number(__ENV.HASHING_PER_SECOND);

const mixed = new SharedArray("mixed", () => JSON.parse(open(PLAN)).mixed);
const hashing = new SharedArray("hashing", () => JSON.parse(open(PLAN)).hashing);
const operations = new SharedArray("operations", () => {
  const plan = JSON.parse(open(PLAN));
  return Array.from(new Set([...plan.mixed, ...plan.hashing].map((request) => request.op)));
});

const failed = new Counter("failed");
const all = new Trend("mixed", true);
const trends = {};
for (const name of operations) trends[name] = new Trend(`op_${name}`, true);

const steady = (name, requests, rate) => ({
  executor: "constant-arrival-rate",
  exec: name,
  rate,
  timeUnit: "1s",
  // The last one of the list has to come, whatever a second is.
  duration: `${Math.ceil(requests.length / rate) + 1}s`,
  preAllocatedVUs: 60,
  gracefulStop: "10s",
});

export const options = {
  scenarios: {
    mixed: steady("sendMixed", mixed, RATE),
    hashing: steady("sendHashing", hashing, HASHING_PER_SECOND),
  },
  summaryTrendStats: ["count", "med", "p(95)", "p(99)", "max"],
  systemTags: ["status"],
};

function send(requests) {
  const request = requests[exec.scenario.iterationInTest];
  if (request === undefined) return null;
  const headers = { Authorization: `Bearer ${request.token}` };
  if (request.op === "update_system_settings") headers["If-Match"] = "*";
  let body = null;
  if (request.body !== undefined) {
    body = JSON.stringify(request.body);
    headers["Content-Type"] = "application/json";
  }
  if (request.raw !== undefined) {
    body = request.raw;
    headers["Content-Type"] = "application/octet-stream";
  }
  const answer = http.request(request.method, `${URL}${request.path}`, body, { headers });
  trends[request.op].add(answer.timings.duration);
  if (answer.status < 200 || answer.status > 299) {
    failed.add(1);
    console.error(`${request.op} ${answer.status} ${answer.error} ${answer.body}`);
  }
  return answer;
}

export function sendMixed() {
  const answer = send(mixed);
  if (answer) all.add(answer.timings.duration);
}

export function sendHashing() {
  send(hashing);
}

export function handleSummary(data) {
  const figures = { failed: data.metrics.failed ? data.metrics.failed.values.count : 0 };
  figures.dropped = data.metrics.dropped_iterations ? data.metrics.dropped_iterations.values.count : 0;
  figures.mixed = data.metrics.mixed.values;
  figures.operations = {};
  for (const name of operations) figures.operations[name] = data.metrics[`op_${name}`].values;
  return { [SUMMARY]: JSON.stringify(figures) };
}
