// Load for tests/edge/test_overload.py, for k6: one phase a run, figures as JSON.
//
// PHASE is `closed` (VUS clients, each as fast as it can), or `open` (RATE requests/s come whatever
// the server does, for SECONDS; then AFTER_RATE/s for AFTER seconds, told apart by second). Health
// is asked all the time.

import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const { URL, TOKEN, TASK, SUMMARY, PHASE } = __ENV;
const number = (name) => Number(__ENV[name] || 0);
const SECONDS = number("SECONDS");
const AFTER = number("AFTER");
const SETTLE = 5;

const accepted = new Trend("accepted", true);
const rejected = new Trend("rejected", true);
const afterwards = new Trend("afterwards", true);
const lateRejects = new Counter("late_rejects");
const lateAccepts = new Counter("late_accepts");
const wrong = new Counter("wrong");
const unhealthy = new Counter("unhealthy");
const health = new Trend("health", true);

const open = (exec, rate, startTime, seconds) => ({
  executor: "constant-arrival-rate",
  exec,
  rate,
  timeUnit: "1s",
  startTime: `${startTime}s`,
  duration: `${seconds}s`,
  preAllocatedVUs: number("VUS"),
  gracefulStop: "10s",
});

const scenarios = { health: { ...open("alive", 5, 0, SECONDS + AFTER), preAllocatedVUs: 5 } };
if (PHASE === "closed") {
  scenarios.load = { executor: "constant-vus", exec: "load", vus: number("VUS"), duration: `${SECONDS}s` };
} else {
  scenarios.load = open("load", number("RATE"), 0, SECONDS);
  if (AFTER > 0) {
    scenarios.settling = open("load", number("AFTER_RATE"), SECONDS, SETTLE);
    scenarios.after = open("after", number("AFTER_RATE"), SECONDS + SETTLE, AFTER - SETTLE);
  }
}

export const options = {
  scenarios,
  summaryTrendStats: ["count", "med", "p(95)", "p(99)", "max"],
  systemTags: ["status"],
};

const headers = { Authorization: `Bearer ${TOKEN}`, "Content-Type": "application/json" };
const task = JSON.stringify({ name: "load", required_capabilities: ["nobody-has-this"] });

// What dashboards and integrators do: mostly reads, one write in ten.
function ask() {
  const dice = Math.random();
  if (dice < 0.4) return http.get(`${URL}/api/v1/tasks?limit=50`, { headers });
  if (dice < 0.7) return http.get(`${URL}/api/v1/agents?limit=50`, { headers });
  if (dice < 0.9) return http.get(`${URL}/api/v1/tasks/${TASK}`, { headers });
  return http.post(`${URL}/api/v1/tasks`, task, { headers });
}

function isRejection(answer) {
  return answer.status === 503 && answer.headers["Retry-After"] && answer.body.includes('"overloaded"');
}

export function load() {
  const answer = ask();
  if (answer.status >= 200 && answer.status < 300) accepted.add(answer.timings.duration);
  else if (isRejection(answer)) rejected.add(answer.timings.duration);
  else {
    wrong.add(1);
    console.error(`${answer.status} ${answer.error} ${answer.body}`);
  }
}

export function after() {
  const answer = ask();
  if (answer.status >= 200 && answer.status < 300) {
    lateAccepts.add(1);
    afterwards.add(answer.timings.duration);
  } else lateRejects.add(1);
}

export function alive() {
  const answer = http.get(`${URL}/health/live`);
  health.add(answer.timings.duration);
  if (answer.status !== 200) unhealthy.add(1);
}

export function handleSummary(data) {
  const figures = {};
  for (const [name, metric] of Object.entries(data.metrics)) figures[name] = metric.values;
  return { [SUMMARY]: JSON.stringify(figures) };
}
