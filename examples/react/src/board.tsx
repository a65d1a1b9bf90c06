import { useReducer, useState } from "react";
import { usePresence, useRequest, useRoom, useStatus } from "@fastapi-websocket-stabilizer/client/react";

const ROOM = "board";

type Note = { id: string; text: string; by: string };
type Change = { add: Note } | { remove: string };

/** A note that is known stays as it is: a change may be shown again after the board was fetched. */
function changed(notes: Note[], change: Change): Note[] {
  if ("remove" in change) return notes.filter(({ id }) => id !== change.remove);
  return notes.some(({ id }) => id === change.add.id) ? notes : [...notes, change.add];
}
/** One change, or all that there are. */
function reduce(notes: Note[], change: Change | Change[]): Note[] {
  return Array.isArray(change) ? change.reduce(changed, []) : changed(notes, change);
}

export function Board() {
  const [notes, apply] = useReducer(reduce, []);
  const [remove, removal] = useRequest("remove");
  const { error } = useRoom(ROOM, {
    join: true,
    onMessage: ({ data }) => apply(data),
    reload: async () => apply(await (await fetch("/api/board")).json()), // later changes wait for it
  });
  return (
    <>
      <Header />
      <AddNote />
      {(error || removal.error) && <p role="alert">{(error || removal.error).message}</p>}
      <ul aria-label="Notes">
        {notes.map(({ id, text, by }) => (
          <li key={id}>
            <p>{text}</p>
            <small>{by}</small>
            <button aria-label={`Remove ${text}`} onClick={() => remove(id)}>×</button>
          </li>
        ))}
      </ul>
    </>
  );
}

function Header() {
  const names = [...usePresence(ROOM).keys()].sort();
  return (
    <header>
      <h1>Board</h1>
      <output aria-label="Status">{useStatus()}</output>
      <ul aria-label="People">{names.map((name) => <li key={name}>{name}</li>)}</ul>
    </header>
  );
}

function AddNote() {
  const [text, setText] = useState("");
  const [add, { isPending, error }] = useRequest("add");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        add({ text }).then(() => setText(""), () => {}); // the error is shown below
      }}
    >
      <input aria-label="Note" value={text} maxLength={200} required onChange={({ target }) => setText(target.value)} />
      <button disabled={isPending}>Add</button>
      {error && <p role="alert">{error.message}</p>}
    </form>
  );
}
