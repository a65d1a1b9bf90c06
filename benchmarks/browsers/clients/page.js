// What every page does: it keeps each number that its client has received, with the time, also across a reload.
const saved = JSON.parse(sessionStorage.getItem("seen") ?? "[]");
export const seen = (window.seen = saved);
window.told = Number(sessionStorage.getItem("told") ?? 0);
addEventListener("pagehide", () => {
  sessionStorage.setItem("seen", JSON.stringify(seen));
  sessionStorage.setItem("told", String(window.told));
});
export const note = (number) => seen.push([number, Date.now()]);
export const tell = () => window.told++;
