// The page for operators: a view of the admin API of one node.
// Names may contain anything. They become text nodes only, and coded parts of links that begin with "#/".

/** Milliseconds between requests; between those of the overview behind other views; of a sparkline; until an answer. */
const POLL = 2_000, BACKGROUND = 10_000, WINDOW = 600_000, TIMEOUT = 45_000;
/** Rows of a table; lines of the live view; seconds of lag above which it is marked. */
const ROWS = 100, LINES = 500, LAG = 0.1;
/** Causes of normal operation, and the others. */
const CALM = "peer_closed released replaced kicked drained shutdown".split(" ");
const CAUSES = [...CALM, ..."peer_gone handler_error over_limit evicted expired too_large protocol_error timed_out slow write_failed".split(" ")];
const COLOR = { page: "red", error: "red", warn: "amber", warning: "amber", ok: "green" };
const HANDLERS = ["onclick", "onsubmit", "onchange"], SECRET = "stabilizer-admin-secret";
const NO_NODE = "No node has published its state.";

const { entries, fromEntries } = Object;
const $ = (id) => document.getElementById(id);
const main = $("main"), dialog = $("dialog"), waker = new EventTarget();
let secret = sessionStorage.getItem(SECRET) ?? "";
/** The latest overview, the totals of the last ones, and names of nodes. */
let overview = null, history = [], names = new Map();
/** Aborted when the view is left. */
let leaving = new AbortController();
let shownPath = null, shownAt = 0, isPolled = false, draw = () => {};
let sorted = { title: "Name", isDown: false };

// Elements

const isGiven = (value) => (value ?? false) !== false;
const fill = (element, parts) => {
  const attributes = parts[0]?.constructor === Object ? parts.shift() : {};
  for (const [name, value] of entries(attributes)) {
    if (HANDLERS.includes(name)) element[name] = value;
    else if (isGiven(value)) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...parts.flat(Infinity).filter(isGiven));
  return element;
};
/** `tag` may have a class: "p.soft". Attributes, if any, come before children. */
const h = (tag, ...parts) => {
  const [name, kind] = tag.split("."), element = document.createElement(name);
  if (kind) element.className = kind;
  return fill(element, parts);
};
const svg = (tag, ...parts) => fill(document.createElementNS("http://www.w3.org/2000/svg", tag), parts);
const chart = (kind, viewBox, ...children) =>
  svg("svg", { class: kind, viewBox, preserveAspectRatio: "none", "aria-hidden": "true" }, ...children);
const handled = (submit) => (event) => {
  event.preventDefault();
  submit(event.target);
};

/** Make `parent` show `children`. Elements that are there stay, with their focus and scroll positions. */
function patch(parent, children) {
  const keyed = new Map([...parent.children].map((old) => [old.dataset.key, old]));
  let at = parent.firstChild;
  for (const child of children) {
    const key = child.dataset?.key;
    const old = key ? keyed.get(key) : at?.nodeName === child.nodeName && !at.dataset?.key && at;
    keyed.delete(key);
    if (old && old === at) at = at.nextSibling;
    else parent.insertBefore(old || child, at);
    if (old) update(old, child);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}
function update(old, child) {
  if (!child.attributes) {
    if (old.data !== child.data) old.data = child.data; // an assignment would end a selection
    return;
  }
  for (const { name } of [...old.attributes]) if (!child.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of child.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of HANDLERS) old[name] = child[name];
  patch(old, [...child.childNodes]);
}

// Texts

const rounded = (value, digits) => value?.toLocaleString("en", { maximumFractionDigits: digits }) ?? "-";
const number = (value) => rounded(value, 0);
const rate = (value) => rounded(value, value < 10 ? 1 : 0);
const plural = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
const bytes = (value) => {
  const power = value < 1024 ? 0 : Math.floor(Math.log2(value) / 10);
  return value == null ? "-" : `${rate(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
};
const seconds = (value) => {
  if (value == null) return "-";
  if (value < 60) return value < 1 ? `${rate(value * 1000)} ms` : `${rate(value)} s`;
  const [size, unit, part, small] = value < 3600 ? [60, "min", 1, "s"] : value < 172_800 ? [3600, "h", 60, "min"] : [86_400, "d", 3600, "h"];
  return `${number(Math.floor(value / size))} ${unit} ${Math.floor(value % size / part)} ${small}`;
};
const time = ({ at }) => at.slice(0, 19).replace("T", " ");
/** A lone surrogate cannot be coded. */
const coded = (text) => encodeURIComponent(`${text}`.replace(/\p{Surrogate}/gu, "\ufffd"));
const query = (values) => {
  const given = entries(values).filter(([, value]) => value);
  return given.length ? `?${given.map(([name, value]) => `${name}=${coded(value)}`).join("&")}` : "";
};
const commas = (parts) => parts.flatMap((part, i) => i ? [", ", part] : [part]);

/** An invisible character is marked: it can make one name look like another. */
const bdi = (text) => {
  const odd = `${text}`.match(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/u)?.[0].codePointAt(0).toString(16).toUpperCase();
  return h("bdi", odd ? { class: "odd", title: `Contains U+${odd.padStart(4, "0")}` } : {}, `${text}`);
};
const link = (path, values, text) => h("a", { href: `#/${path}${query(values)}` }, text);
const clientLink = ({ client_id }) => link(`client/${coded(client_id)}`, {}, bdi(client_id));
const roomLink = (room) => link("connections", { room }, bdi(room));
const nodeLink = ({ node }) => node ? link("connections", { node }, bdi(names.get(node) ?? node)) : "-";
const badge = (text, color) => h("span", { class: `badge ${color || ""}` }, text);
const mark = (text, why) => h("strong.mark", { title: why }, text);
const empty = (...text) => h("p.empty", ...text);
const button = (text, onclick, isOff) => h("button", { type: "button", onclick, disabled: isOff }, text);
const may = (action) => overview?.actions.includes(action);

/** A bar from 0 to `top`, with a line at `mean`. */
const bar = (value, top, isBad, mean) => chart("bar", "0 0 100 1",
  svg("rect", { width: Math.min(100, value / top * 100 || 0), height: 1, class: isBad && "amber" }),
  mean && svg("line", { x1: mean / top * 100, x2: mean / top * 100, y2: 1 }));
/** Rows are `[key, label, text, ...bar]`. */
const bars = (rows) => h("ul.bars", rows.map(([key, label, text, ...rest]) =>
  h("li", { "data-key": key }, h("span", label), bar(...rest), h("span", text))));

const cells = (columns, row) => columns.map(([, cell, kind]) => h("td", { class: kind }, cell(row)));
/** Columns are `[title, cell, class, value to sort by]`. */
const table = (caption, columns, rows, isSortable) => {
  const headOf = ([title, , kind, value]) => {
    const isSorted = isSortable && sorted.title === title;
    const sort = () => {
      sorted = { title, isDown: isSorted ? !sorted.isDown : kind === "n" };
      draw();
    };
    return h("th", { class: kind, "aria-sort": isSorted && (sorted.isDown ? "descending" : "ascending") },
      isSortable && value ? button(title, sort) : title);
  };
  const rowOf = (row) => h("tr", { "data-key": row.node_id ?? row.room ?? row.connection_id }, cells(columns, row));
  return h("div.scroll", { tabindex: 0 }, h("table", h("caption", caption),
    h("thead", h("tr", columns.map(headOf))), h("tbody", rows.map(rowOf))));
};
const column = (title, key, format = number, kind = "n") => [title, (row) => format(row[key], row), kind, (row) => row[key]];
const filtersOf = (values) => entries(values).filter(([name, value]) => value && name !== "sort");
const silence = ({ silent }) => Object.keys(silent).length > 0 &&
  h("p.warn", "Incomplete: ", commas(entries(silent).map(([node, why]) => [nodeLink({ node }), ` (${why})`])), ".");
const missed = ({ missing }) => missing > 0 && h("p.warn", `Incomplete: ${plural(missing, "node")} published nothing.`);
const some = (noun, none, columns, rows, isSortable) =>
  rows.length ? table(plural(rows.length, noun), columns, rows, isSortable) : empty(none);
/** The table of an answer, or the reason why there is none. */
const listing = (data, values, noun, none, columns) => {
  const { rows, count } = data, filters = filtersOf(values).map(([name, value]) => [`${name} `, bdi(value)]);
  return [silence(data), count > rows.length ? table(`${number(rows.length)} of ${number(count)} shown`, columns, rows)
    : some(noun, filters.length ? [`No ${noun} matches. Filters: `, commas(filters), "."] : none, columns, rows)];
};

/** Fields are `[name, label, options]`; without options, a field takes text. */
const filterForm = (path, values, fields) => {
  const inputOf = ([name, label, options]) => {
    const id = `by-${name}`, onchange = (event) => event.target.form.requestSubmit();
    return h("label", label, options ? h("select", { name, id, onchange }, options.map(([value, text = value]) =>
      h("option", { value, selected: value === values[name] }, text)))
      : h("input", { name, id, value: values[name], autocomplete: "off" }));
  };
  const onsubmit = handled((form) => go(`#/${path}${query(fromEntries(new FormData(form)))}`));
  return h("form.filters", { onsubmit }, fields.map(inputOf), h("button", "Filter"), filtersOf(values).length > 0 && link(path, {}, "Clear"));
};
const choices = (values) => [["", "any"], ...values.map((value) => [value])];
const nodeChoices = (chosen = "") => [...new Map([["", "any"], [chosen, chosen || "any"], ...names])]
  .map(([id, name]) => [id, `\u2068${name}\u2069`]); // isolated, as in a bdi

// Requests

async function call(path, body, leave = leaving.signal) {
  const response = await fetch(`api/${path}`, {
    headers: {
      ...(secret && { Authorization: `Bearer ${secret}` }),
      ...(body && { "Content-Type": "application/json", "X-Stabilizer": "1" }),
    },
    ...(body && { method: "POST", body: JSON.stringify(body) }),
    cache: "no-cache",
    signal: AbortSignal.any([leave, AbortSignal.timeout(TIMEOUT)]),
  }).catch(({ message }) => {
    throw new Error(`No answer from the node: ${message}`);
  });
  if (response.ok) return response;
  const { status, statusText } = response, { title = statusText, detail = "" } = await response.json().catch(() => ({}));
  throw Object.assign(new Error(`${status} ${title}${detail && ` - ${detail}`}`), { status });
}
const read = async (path, body) => (await call(path, body)).json();

/** Wait for an event, the end of the view or `ms`. */
const until = (target, type, signal, ms) => new Promise((resolve) => {
  const end = new AbortController();
  const done = () => {
    end.abort(); // removes the listeners
    resolve();
  };
  target.addEventListener(type, done, { signal: end.signal });
  signal.addEventListener("abort", done, { signal: end.signal });
  if (ms) setTimeout(done, ms);
});
/** Run `load` one at a time while the tab is visible. Without `every`, it runs again only after `reload`. */
async function repeat(every, signal, load, fail) {
  while (!signal.aborted) {
    if (document.hidden) await until(document, "visibilitychange", signal);
    else {
      await load().catch(({ status, message }) => {
        if (signal.aborted) return;
        if (status === 401 || status === 403) askSecret(message);
        else fail(message);
      });
      if (!signal.aborted) await until(waker, "reload", signal, every);
    }
  }
}
const reload = () => waker.dispatchEvent(new Event("reload"));

// The frame of the page

const showError = (text) => {
  if ($("error").textContent !== text) $("error").textContent = text; // an alert is read out once
};
function noteOverview(data) {
  const { redis, mode, node, actions, problems, totals } = overview = data, now = Date.now();
  history = [...history.filter(({ at }) => now - at < WINDOW), { at: now, totals }];
  for (const { node_id, name } of [node, ...data.nodes]) names.set(node_id, name);
  patch($("registry"), [bdi(data.registry)]);
  patch($("facts"), [h("span", "node ", ownLink(node)), badge(mode), badge(actions.length ? `actions: ${actions.join(", ")}` : "read-only"),
    redis?.reachable === false && badge("Redis is unreachable", "red")].filter(isGiven));
  $("count").textContent = problems.length || "";
}
function showAge() {
  const age = Math.floor((Date.now() - shownAt) / 1000);
  $("age").textContent = shownAt ? `updated ${seconds(Math.max(1, age))} ago` : "";
  $("age").classList.toggle("stale", isPolled && age >= 10);
}

function askSecret(text) {
  leaving.abort();
  shownPath = null;
  showError(secret && text);
  const onsubmit = handled(() => setSecret(input.value));
  const input = h("input", { id: "secret", type: "password", autocomplete: "off", required: true });
  main.replaceChildren(h("h1", "Admin secret"), h("p", "The tab keeps it until it is closed."),
    h("form.filters", { onsubmit }, h("label", "Secret", input), h("button", "Continue")));
  input.focus();
}
function setSecret(value) {
  secret = value;
  sessionStorage.setItem(SECRET, secret);
  show();
}

/** Ask before `act`, which returns what was done. The focus is on Cancel, so that Enter does no harm. */
function ask(verb, text, fields, act) {
  const inputs = fields.map(([, tag, attributes]) => h(tag, attributes)), problem = h("p.bad", { role: "alert" });
  const cancel = button("Cancel", () => dialog.close()), confirm = button(verb, async () => {
    if (!inputs.every((input) => input.reportValidity())) return;
    const given = inputs.map(({ name, type, value }) => [name, type === "number" ? Number(value) : value]);
    confirm.disabled = true;
    try {
      const done = await act(fromEntries(given.filter(([, value]) => value)));
      dialog.close();
      $("status").replaceChildren(...done);
      reload();
    } catch (error) {
      problem.textContent = error.message;
      confirm.disabled = false;
    }
  });
  confirm.className = "danger";
  dialog.replaceChildren(h("h2", { id: "question" }, verb), h("p", text),
    ...inputs.map((input, i) => h("label", fields[i][0], input)), problem, h("div.ends", cancel, confirm));
  dialog.showModal();
  cancel.focus();
}
const disconnect = (id, count, connection_id) => ask("Disconnect",
  ["Close ", connection_id ? ["connection ", bdi(connection_id)] : plural(count, "connection"), " of client ", bdi(id), "."],
  [["Close code (optional)", "input", { name: "code", type: "number", min: 1000, max: 4999 }],
    ["Reason (optional)", "input", { name: "reason", maxlength: 123 }]],
  async (values) => {
    const { closed } = await read(`clients/${coded(id)}/disconnect`, { ...values, connection_id });
    return [`Closed ${plural(closed, "connection")} of client `, bdi(id), "."];
  });
const drain = ({ node_id, name, connections }) => {
  const others = overview.nodes.filter((node) => node.ready && !node.draining && node.node_id !== node_id).length;
  return ask("Drain", ["Node ", bdi(name), ` closes its ${plural(connections, "connection")} and accepts no new ones. `,
    others ? `${plural(others, "other node")} can accept them.` : h("b.mark", "No other node is ready.")],
  [["Seconds (optional)", "input", { name: "over_s", type: "number", min: 1, step: "any" }]],
  async (values) => {
    await read(`nodes/${coded(node_id)}/drain`, values);
    return ["Node ", bdi(name), " is asked to drain."];
  });
};
const broadcast = () => ask("Broadcast", "Send a text to each connection, or to those in a room.",
  [["Text", "textarea", { name: "text", rows: 4, required: true }], ["Room (optional)", "input", { name: "room" }]],
  async (values) => [`Sent to ${plural((await read("broadcast", values)).nodes, "node")}.`]);

// Parts of views

const card = (level, title, parts) => h("li", { class: COLOR[level] }, badge(level, COLOR[level]), " ", title,
  entries(parts).map(([label, text]) => text && h("p", h("b", label), bdi(text))));
const tile = (label, key, format = number) => {
  const values = history.map(({ totals }) => totals[key] ?? 0), now = Date.now(), top = Math.max(...values) || 1;
  const span = Math.max(60_000, now - history[0].at);
  const points = history.map(({ at }, i) => {
    const isGap = !i || at - history[i - 1].at > 3 * BACKGROUND;
    return `${isGap ? "M" : "L"}${(100 - (now - at) / span * 100).toFixed(2)} ${(29 - values[i] / top * 27).toFixed(1)}`;
  });
  return h("div.tile", h("span", label), h("b", format(overview.totals[key])),
    chart("", "0 0 100 30", svg("path", { d: points.join("") })),
    h("span", `10 min: ${format(Math.min(...values))} to ${format(Math.max(...values))}`));
};
const ownLink = ({ node_id }) => nodeLink({ node: node_id });
const nodeBars = (nodes) => {
  const rows = nodes.toSorted((a, b) => b.load - a.load), top = Math.max(1.5, rows[0].load);
  return bars(rows.map((node) => [node.node_id, ownLink(node), `${number(node.connections)} (${rounded(node.load, 2)} × mean)`,
    node.load, top, node.load > 1.5, 1]));
};
const causeBars = (causes) => {
  const rows = entries(causes).sort(([, a], [, b]) => b - a);
  return rows.length ? bars(rows.map(([cause, count]) => [cause, link("closed", { cause }, cause), number(count),
    count, rows[0][1], !CALM.includes(cause)])) : empty("No connection has ended.");
};
const state = ({ ready, draining }) => draining ? badge("draining", "amber") : ready ? badge("ready", "green") : badge("not ready", "red");
const lag = (value) => value > LAG ? mark(seconds(value), `More than ${LAG} s`) : seconds(value);
const causeBadge = ({ cause }) => cause ? badge(cause, !CALM.includes(cause) && "amber") : "-";
const clientColumn = ["Client", clientLink, "text"], nodeColumn = ["Node", nodeLink], causeColumn = ["Cause", causeBadge];
const codeColumn = ["Code", ({ code }) => code ?? "-", "n"], lastedColumn = column("Lasted", "lasted_s", seconds);
const silentColumn = column("Silent", "silent_s", seconds), idColumn = ["Connection", ({ connection_id }) => bdi(connection_id)];
const connectionColumns = (isOfClient) => [
  isOfClient || clientColumn, nodeColumn, column("Open", "open_s", seconds), silentColumn, column("Ping", "ping_s", seconds),
  column("Queued", "queued_bytes", (queued, row) => [bytes(queued), queued > 0 && bar(queued, row.queued_limit, row.is_behind)]),
  ["State", (row) => [row.is_behind && badge("slow", "amber"), row.is_asked && badge("awaits pong", "amber"), row.is_parked && badge("parked")]],
  column("Expires in", "expires_s", seconds), ["Protocol", ({ protocol }) => protocol || "-"],
  ["Rooms", ({ rooms, room_count }) => [commas(rooms.slice(0, 3).map(roomLink)), room_count > 3 && ` and ${number(room_count - 3)} more`], "text"],
  idColumn, isOfClient && may("kick") && ["", (row) => button("Disconnect", () => disconnect(row.client_id, 1, row.connection_id))],
].filter(Array.isArray);
const endColumns = (isOfClient) => [
  ["Ended (UTC)", time], isOfClient || clientColumn, nodeColumn, causeColumn, codeColumn,
  ["Reason", ({ reason, error }) => [reason && bdi(reason), error && h("div.mark", bdi(error))], "text"],
  lastedColumn, silentColumn, column("Queued", "queued_bytes", bytes), idColumn,
].filter(Array.isArray);
// Views: `body` shows the answer to `api`. `fields` and `buttons` are there before.

const views = {
  overview: {
    every: POLL,
    buttons: () => may("broadcast") && button("Broadcast", broadcast),
    body: (data) => [missed(data), data.problems.length
      ? h("ul.cards", { "aria-label": "Problems" }, data.problems.map((problem) => card(problem.severity,
        [h("strong", problem.name), problem.node_id && [" on ", ownLink(problem)]],
        { What: problem.what, Meaning: problem.meaning, Advice: problem.advice })))
      : h("ul.cards", h("li.green", "No problems.")),
    h("div.tiles", tile("Ready nodes", "ready"), tile("Connections", "connections"), tile("Opened per s", "opened_per_s", rate),
      tile("Closed per s", "closed_per_s", rate), tile("Sent per s", "sent_per_s", rate), tile("Outbox", "outbox_bytes", bytes)),
    h("div.halves",
      h("section", h("h2", `Ended connections by cause, last ${seconds(data.window_s)}`), causeBars(data.closed_by_cause)),
      h("section", h("h2", "Connections by node, line at the mean"),
        data.nodes.length ? nodeBars(data.nodes) : empty(NO_NODE))),
    h("p.soft", data.redis ? bdi(data.redis.address) : "Memory mode")],
  },
  nodes: {
    every: POLL, api: "overview",
    body: (data) => {
      const usual = data.nodes.map(({ version }) => version).sort()[data.nodes.length >> 1]; // the median is the majority
      const columns = [
        column("Name", "name", (name, node) => ownLink(node), "text"), column("Worker", "worker", (worker) => bdi(worker ?? "-"), ""),
        column("Version", "version", (version) => version === usual ? version : mark(version, `Most nodes have ${usual}`), ""),
        ["State", state, "", ({ ready, draining }) => ready + 2 * draining],
        column("Connections", "connections"), column("Load", "load", (load) => `${rounded(load, 2)} ×`), column("Rooms", "rooms"),
        column("Opened/s", "opened_per_s", rate), column("Closed/s", "closed_per_s", rate), column("Sent/s", "sent_per_s", rate),
        column("Outbox", "outbox_bytes", bytes), column("Loop lag", "loop_lag_s", lag), column("Bus lag", "bus_lag_s", lag),
      ];
      const [, , , value] = columns.find(([title]) => title === sorted.title), sign = sorted.isDown ? -1 : 1;
      const rows = data.nodes.toSorted((a, b) => ((value(a) > value(b)) - (value(a) < value(b))) * sign);
      if (may("drain")) columns.push(["", (node) => button("Drain", () => drain(node), node.draining)]);
      return [missed(data), some("node", NO_NODE, columns, rows, true)];
    },
  },
  connections: {
    every: POLL,
    fields: (values) => [["client", "Client"], ["room", "Room"], ["node", "Node", nodeChoices(values.node)],
      ["state", "State", choices(["slow", "silent", "parked", "expiring"])], ["sort", "Sorted by", [["", "age"], ["outbox"], ["silent", "silence"]]]],
    body: (data, values) => listing(data, values, "connection", "No connection is open.", connectionColumns()),
  },
  client: {
    api: "clients",
    buttons: (data, id) => [link("live", { client: id }, "Live"),
      may("kick") && data?.connections.length > 0 && button("Disconnect", () => disconnect(id, data.connections.length))],
    body: (data) => [silence(data),
      h("ul.cards", { "aria-label": "Verdict" }, data.verdict.map((sentence) => h("li", bdi(sentence)))),
      data.ghosts.length > 0 && h("p.warn", "Registered, but held by no node: ", commas(data.ghosts.map(bdi)), "."),
      some("open connection", "No connection of this client is open.", connectionColumns(true), data.connections),
      some("ended connection", "No connection of this client has ended since the nodes started.", endColumns(true), data.closed)],
  },
  rooms: {
    fields: (values) => [["prefix", "Prefix"]],
    body: (data, values) => listing(data, values, "room", "No room has a member.", [
      ["Room", ({ room }) => roomLink(room), "text"], column("Connections", "connections"), column("Nodes", "nodes"),
    ]),
  },
  closed: {
    fields: (values) => [["client", "Client"], ["cause", "Cause", choices(CAUSES)], ["node", "Node", nodeChoices(values.node)]],
    body: (data, values) => listing(data, values, "ended connection", "No connection has ended since this node started.", endColumns()),
  },
  live: {
    start: startLive,
    fields: (values) => [["client", "Client"], ["kind", "Kind", choices(["opened", "closed"])]],
  },
  limits: {
    api: "config",
    body: ({ settings, limits, used }) => h("div.halves", table("Limits of this node", [
      ["Name", ([name]) => name], ["Limit", ([, value]) => rounded(value, 3), "n"], ["Used", ([name]) => rounded(used[name], 3), "n"],
      ["Share", ([name, value]) => {
        const part = used[name] / value, text = `${number(part * 100)} %`;
        return part >= 0 ? [part < 0.8 ? text : mark(text, "80 % or more"), bar(part, 1, part >= 0.8)] : "-";
      }],
    ], entries(limits)), table("Settings of this node", [
      ["Name", ([name]) => name], ["Value", ([, value]) => bdi(typeof value === "string" ? value : JSON.stringify(value)), "text"],
    ], entries(settings))),
  },
  doctor: {
    body: ({ findings }) => h("ul.cards", findings.map(({ level, text, advice }) => card(level, bdi(text), { Advice: advice }))),
  },
};

function startLive(values, signal, head) {
  let waiting = [], isPaused = false, state = "Connecting";
  const columns = [["Time (UTC)", time], ["Event", ({ kind }) => badge(kind, kind === "opened" && "green")],
    clientColumn, nodeColumn, causeColumn, codeColumn, lastedColumn, idColumn];
  const status = h("p.soft"), list = table("Events, newest first", columns, []), body = list.querySelector("tbody");
  const noteOf = ({ kind, count, text }) => kind === "dropped" ? `${plural(count, "event")} dropped: the stream was too slow.` : bdi(text);
  const rowOf = (line) => h("tr", line.at ? cells(columns, line) : h("td.mark", { colspan: columns.length }, noteOf(line)));
  const note = (text = state) => {
    state = text;
    if (!isPaused) {
      body.prepend(...waiting.reverse().map(rowOf));
      waiting = [];
      while (body.rows.length > LINES) body.lastChild.remove();
    }
    status.textContent = isPaused ? `Paused. Newer events: ${waiting.length}.` : `${text}.`;
  };
  const pause = button("Pause", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Continue" : "Pause";
    note();
  });
  main.replaceChildren(...head(pause), status, list);
  note();
  repeat(500, signal, async () => {
    const end = new AbortController(), either = AbortSignal.any([signal, end.signal]);
    document.addEventListener("visibilitychange", () => end.abort(), { signal: either });
    try {
      const { body } = await call(`events${query(values)}`, null, either), reader = body.pipeThrough(new TextDecoderStream()).getReader();
      showError("");
      note("Connected");
      let rest = "";
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = `${rest}${part.value}`.split("\n");
        rest = lines.pop();
        waiting = [...waiting, ...lines.filter((line) => line.trim()).map((line) => JSON.parse(line))].slice(-LINES);
        note();
        shownAt = Date.now();
      }
    } catch (error) {
      if (!end.signal.aborted) throw error;
    } finally {
      end.abort();
    }
  }, (text) => {
    showError(text);
    note("Not connected");
  });
}

// Navigation

const decoded = (text) => {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // typed by hand
  }
};
function route() {
  const [path, search] = location.hash.slice(2).split(/\?(.*)/s), [name, ...rest] = path.split("/");
  const values = fromEntries(new URLSearchParams(search));
  return { path, name: Object.hasOwn(views, name) ? name : "overview", id: name === "client" ? decoded(rest.join("/")) : "", values };
}
function go(hash) {
  if (location.hash === hash) reload();
  else location.hash = hash;
}

function show() {
  leaving.abort();
  leaving = new AbortController();
  const { signal } = leaving, { path, name, id, values } = route(), view = views[name];
  const request = `${view.api ?? name}${id && `/${coded(id)}`}${view.fields ? query({ ...values, limit: ROWS }) : ""}`;
  const title = name[0].toUpperCase() + name.slice(1), focused = path === shownPath && document.activeElement.id;
  let data = null, none = "Loading…";
  const head = (...buttons) => [h("div.head", h("h1", title, id && [" ", bdi(id)]), buttons),
    view.fields && filterForm(name, values, view.fields(values))];
  draw = () => {
    if (view.start) return;
    const focus = document.activeElement;
    const parts = [head(view.buttons?.(data, id), !view.every && button("Refresh", reload)), data ? view.body(data, values, id) : empty(none)];
    patch(main, parts.flat(Infinity).filter(isGiven));
    if (main.contains(focus)) focus.focus(); // its row may have moved
  };
  shownAt = 0;
  isPolled = !!view.every;
  $("forget").hidden = !secret;
  dialog.close();
  showError("");
  $("status").textContent = "";
  document.title = `${title} - ${overview?.registry ?? "WebSocket registry"}`;
  for (const entry of document.querySelectorAll("nav a")) entry.ariaCurrent = entry.firstChild.data === title ? "page" : null;
  main.replaceChildren();
  const load = (path, every, use, fail) => repeat(every, signal, async () => {
    const answer = await read(path);
    if (signal.aborted) return;
    for (const [node, name] of entries(answer.names ?? {})) names.set(node, name);
    if (path === "overview") noteOverview(answer);
    use(answer);
  }, fail);
  draw();
  if (view.start) view.start(values, signal, head);
  else {
    load(request, view.every, (answer) => {
      data = answer;
      shownAt = Date.now();
      showAge();
      draw();
      showError("");
    }, (text) => {
      none = "No data.";
      draw();
      showError(text);
    });
  }
  if (request !== "overview") load("overview", BACKGROUND, draw, () => {});
  if (focused) $(focused)?.focus();
  else if (shownPath !== null) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
  shownPath = path;
}

$("forget").onclick = () => setSecret("");
$("search").onsubmit = handled(() => $("find").value && go(`#/client/${coded($("find").value)}`));
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || dialog.open || event.target.matches("input, select, textarea")) return;
  event.preventDefault();
  $("find").select();
});
addEventListener("hashchange", show);
setInterval(showAge, 1_000);
show();
