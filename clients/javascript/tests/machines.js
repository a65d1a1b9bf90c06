// A machine for tests: effects are their names, and an event is a method that returns the actions.
import { createMachine } from "../src/machine.js";

const EFFECTS = ["authorize", "dial", "send", "close", "message", "lost", "settle", "asked", "unasked", "room", "presence", "status"];

export function namedMachine(options) {
  const machine = createMachine(Object.fromEntries(EFFECTS.map((name) => [`_${name}`, name])), { _random: () => 0.5, ...options });
  return {
    machine,
    cursor: () => machine._cursor(),
    status: () => machine._now(),
    timerAt: () => machine._timerAt(),
    tell: (event, now, ...parameters) => machine._handle(now, machine[`_${event}`], ...parameters),
  };
}
