// One block of requests for k6: VUS clients, each as fast as it can. `python -m benchmarks.pipeline`
// runs it; see there.

import http from "k6/http";
import { Counter, Trend } from "k6/metrics";

const { URL, TOKEN, SUMMARY, SECONDS } = __ENV;

const asked = new Trend("asked", true);
const failed = new Counter("failed");

export const options = {
  scenarios: {
    block: {
      executor: "constant-vus",
      vus: Number(__ENV.VUS),
      duration: `${SECONDS}s`,
      gracefulStop: "5s",
    },
  },
  summaryTrendStats: ["count", "med", "p(99)"],
  systemTags: ["status"],
};

export default function () {
  const answer = http.get(URL, { headers: { Authorization: `Bearer ${TOKEN}` } });
  if (answer.status === 200) asked.add(answer.timings.duration);
  else {
    failed.add(1);
    console.error(`${answer.status} ${answer.error} ${answer.body}`);
  }
}

export function handleSummary(data) {
  const figures = data.metrics.asked.values;
  figures.failed = data.metrics.failed ? data.metrics.failed.values.count : 0;
  return { [SUMMARY]: JSON.stringify(figures) };
}
