// Keeps the parts of a page that change by themselves as they are on the server. A socket says when to look; a slow
// round looks anyway, so that a lost word costs seconds. Nothing that a person types is ever replaced.
"use strict";

const ROUND_MS = 5000;
const RECONNECT_MS = 3000;

for (const part of document.querySelectorAll("[data-live]")) {
  let etag = "";
  let running = false;
  let again = false;

  async function look() {
    if (running) { again = true; return; }
    running = true;
    try {
      const headers = etag ? { "If-None-Match": etag } : {};
      const answer = await fetch(part.dataset.live, { headers, credentials: "same-origin", redirect: "error" });
      if (answer.status === 200) {
        etag = answer.headers.get("ETag") || "";
        const open = [...part.querySelectorAll("details")].map((one) => one.open);
        part.innerHTML = await answer.text();
        part.querySelectorAll("details").forEach((one, index) => { one.open = open[index] || false; });
        settle();
      } else if (answer.status === 401 || answer.status === 403 || answer.status === 404) {
        location.reload();
      }
    } catch (error) {
      // The server is away, or the sign-in is over: the next round tells.
    } finally {
      running = false;
      if (again) { again = false; look(); }
    }
  }

  function settle() {
    const state = part.querySelector("[data-state]");
    if (state && state.dataset.state !== "pending") {
      for (const one of document.querySelectorAll("[data-while-pending]")) one.hidden = true;
    }
  }

  function listen() {
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(`${scheme}//${location.host}${part.dataset.socket}`);
    socket.onmessage = look;
    socket.onclose = () => setTimeout(listen, RECONNECT_MS);
  }

  setInterval(look, ROUND_MS);
  listen();
}
