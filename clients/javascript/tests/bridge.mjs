// Runs a machine for another process: one JSON event a line in, one JSON line of actions and state out.
// It asks for chance in between: `{"chance":true}` is answered with a number.
import { readSync, writeSync } from "node:fs";
import { namedMachine } from "./machines.js";

let rest = "";
const chunk = Buffer.alloc(65_536);
const line = () => {
  let end;
  while ((end = rest.indexOf("\n")) < 0) {
    const size = readSync(0, chunk);
    if (!size) process.exit();
    rest += chunk.toString("utf8", 0, size);
  }
  const found = rest.slice(0, end);
  rest = rest.slice(end + 1);
  return JSON.parse(found);
};
const write = (value) => writeSync(1, `${JSON.stringify(value, revive)}\n`);
const hex = (bytes) => Buffer.from(bytes).toString("hex");
function revive(key, value) {
  if (value instanceof ArrayBuffer || value instanceof Uint8Array) return { hex: hex(value) };
  if (value instanceof Map) return { map: [...value] };
  if (value instanceof Error) return { error: value.code ?? "bug", message: value.message, closeCode: value.closeCode, stack: value.code ? undefined : value.stack };
  return value;
}
const random = () => {
  write({ chance: true });
  return line();
};
let machine;
for (;;) {
  const [name, ...parameters] = line();
  if (name === "create") {
    machine = namedMachine({ _random: random, ...parameters[0] });
    write({ actions: [] });
    continue;
  }
  let actions = [], error = null;
  try {
    const [now, ...others] = parameters;
    actions = machine.tell(name, now, ...others.map((value) => value?.hex === undefined ? value : new Uint8Array(Buffer.from(value.hex, "hex")).buffer));
  } catch (thrown) {
    error = thrown;
  }
  const at = machine.timerAt();
  write({ actions, error, timerAt: at === Infinity ? null : at, cursor: machine.cursor(), status: machine.status() });
}
