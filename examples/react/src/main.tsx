import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { connect } from "@fastapi-websocket-stabilizer/client";
import { StabilizerProvider } from "@fastapi-websocket-stabilizer/client/react";
import { Board } from "./board";
import "./board.css";

const name = new URLSearchParams(location.search).get("name") || "guest";
const client = connect(`/ws?name=${encodeURIComponent(name)}`);

createRoot(document.getElementById("page")!).render(
  <StrictMode>
    <StabilizerProvider value={client}>
      <Board />
    </StabilizerProvider>
  </StrictMode>,
);
