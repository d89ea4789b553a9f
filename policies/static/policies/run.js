/* A simulation or suggestion that is under way: its page follows it and shows the result when it is done. */
document.addEventListener("DOMContentLoaded", () => {
  const run = document.querySelector("[data-run]");
  if (!run) return;
  const look = async () => {
    try {
      const answer = await fetch(run.dataset.run, { headers: { Accept: "application/json" } });
      if (answer.ok) {
        const told = await answer.json();
        run.querySelector("progress").value = told.percent;
        run.querySelector("output").textContent = told.state === "waiting" ? "Waiting for a background worker" : `${told.percent} % of the period`;
        if (told.state === "done" || told.state === "failed") { location.reload(); return; }
      }
    } catch { /* The next look may succeed. */ }
    setTimeout(look, 1000);
  };
  look();
});
