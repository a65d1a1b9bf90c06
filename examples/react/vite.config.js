import { defineConfig } from "vite";

// `npm run dev`: the page comes from Vite, everything else from the application.
const application = "http://127.0.0.1:8000";
export default defineConfig({ server: { proxy: { "/ws": { target: application, ws: true }, "/api": application } } });
