// Logins beside other requests, for k6. `python -m benchmarks.login` runs it; see there.
//
// One run: logins one after the other while nothing else happens, then, in turns, other requests at
// a fixed rate alone and beside 20 logins at a time. The turns make both see the same machine.

import { check } from "k6";
import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const { URL, TOKEN, PASSWORD, SUMMARY } = __ENV;
const SECONDS = Number(__ENV.SECONDS);
const ROUNDS = Number(__ENV.ROUNDS);
const LOGINS = Number(__ENV.LOGINS);
const RATE = Number(__ENV.RATE);
const WARM_UP = 5;
const PAUSE = 2;

const loginIdle = new Trend("login_idle", true);
const loginRush = new Trend("login_rush", true);
const otherAlone = new Trend("other_alone", true);
const otherBeside = new Trend("other_beside", true);
const failed = new Counter("failed");

const others = (exec, start, duration) => ({
  executor: "constant-arrival-rate",
  rate: RATE,
  timeUnit: "1s",
  duration: `${duration}s`,
  startTime: `${start}s`,
  preAllocatedVUs: 40,
  exec,
});
const logins = (exec, vus, start, duration) => ({
  executor: "constant-vus",
  vus,
  duration: `${duration}s`,
  startTime: `${start}s`,
  gracefulStop: "5s",
  exec,
});

const scenarios = {
  warm_up: others("warm", 0, WARM_UP),
  warm_up_logins: logins("warmLogin", 1, 0, WARM_UP),
  login_idle: logins("idle", 1, WARM_UP + PAUSE, SECONDS),
};
let start = WARM_UP + PAUSE + SECONDS + PAUSE;
for (let round = 0; round < ROUNDS; round++) {
  scenarios[`alone_${round}`] = others("alone", start, SECONDS);
  start += SECONDS + PAUSE;
  scenarios[`rush_${round}`] = logins("rush", LOGINS, start - 1, SECONDS + 2);
  scenarios[`beside_${round}`] = others("beside", start, SECONDS);
  start += SECONDS + PAUSE + 5;
}

export const options = {
  scenarios,
  summaryTrendStats: ["count", "med", "p(95)", "p(99)", "max"],
  systemTags: ["status"],
};

function logIn(trend, user) {
  const body = JSON.stringify({ username: `bench-${user}`, password: PASSWORD });
  const answer = http.post(`${URL}/api/v1/auth/login`, body, {
    headers: { "Content-Type": "application/json" },
  });
  take(trend, answer);
}

function ask(trend) {
  const path = Math.random() < 0.5 ? "/api/v1/tasks?limit=20" : "/api/v1/auth/me";
  take(trend, http.get(`${URL}${path}`, { headers: { Authorization: `Bearer ${TOKEN}` } }));
}

function take(trend, answer) {
  if (!check(answer, { "is 200": (it) => it.status === 200 })) {
    failed.add(1);
    console.error(`${answer.status} ${answer.body}`);
  }
  if (trend) trend.add(answer.timings.duration);
}

const user = () => __VU % LOGINS;

export const warm = () => ask(null);
export const warmLogin = () => logIn(null, user());
export const idle = () => logIn(loginIdle, user());
export const rush = () => logIn(loginRush, user());
export const alone = () => ask(otherAlone);
export const beside = () => ask(otherBeside);

export function handleSummary(data) {
  const figures = { failed: data.metrics.failed ? data.metrics.failed.values.count : 0 };
  for (const name of ["login_idle", "login_rush", "other_alone", "other_beside"]) {
    figures[name] = data.metrics[name].values;
  }
  figures.dropped = data.metrics.dropped_iterations
    ? data.metrics.dropped_iterations.values.count
    : 0;
  return { [SUMMARY]: JSON.stringify(figures) };
}
