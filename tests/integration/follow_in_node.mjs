// The client in Node: its address is the argument. Each line of the input is an expression, its value is the answer.

import { createInterface } from "node:readline";
import { connect } from "../../clients/javascript/src/client.js";
import { follow } from "./follow.mjs";

follow(connect, process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  let answer;
  try {
    answer = { value: (await (0, eval)(line)) ?? null };
  } catch (error) {
    answer = { error: `${error}` };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
process.exit(0); // the test has ended
