// Any order of events keeps the promise. The traces have the form of those of Hypothesis for the Python machine.
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { Violation, World } from "./world.js";

const RUNS = 500, STEPS = 120;
const traces = fc.array(fc.integer({ min: 0, max: 5039 }), { minLength: 40, maxLength: 500, size: "max" });

test("the promise is kept in any order of events", () => {
  let delivered = 0, losses = 0;
  fc.assert(fc.property(traces, (trace) => {
    const world = new World(trace).run(STEPS);
    delivered += world.delivered;
    losses += world.losses;
  }), { numRuns: RUNS });
  assert.ok(delivered > RUNS && losses > RUNS / 20, `${delivered} messages and ${losses} losses show little`);
});

const FAULTS = {
  "a loss is not told": (frame) => "lost" in frame ? [] : frame.hi?.lost ? [{ hi: { ...frame.hi, lost: [] } }] : [frame],
  "an entry comes twice": (frame) => frame[0] % 16 === 1 ? [frame, frame] : [frame],
  "an entry does not come": (frame) => frame[0] % 16 === 1 ? [] : [frame],
  "two entries change places": (() => {
    let kept = [];
    return (frame) => {
      const found = [frame, ...kept];
      kept = frame[0] % 16 === 1 ? [frame] : [];
      return kept.length ? found.slice(1) : found;
    };
  })(),
};
for (const [name, fault] of Object.entries(FAULTS)) {
  test(`the checks find it if ${name}`, () => {
    const found = fc.check(fc.property(traces, (trace) => void new World(trace, fault).run(STEPS)), { numRuns: RUNS, endOnFailure: true });
    assert.ok(found.errorInstance instanceof Violation, `${found.errorInstance ?? "nothing was found"}`);
  });
}
