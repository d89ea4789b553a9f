/* A flow's terms: one document in two views. The server turns one into the other and says what is wrong. */
document.addEventListener("alpine:init", () => {
  const CHECK_AFTER_MS = 350;
  /* Without what is empty. */
  const plain = (value) => {
    if (Array.isArray(value)) return value.map((one) => (typeof one === "object" && one !== null ? plain(one) : one));
    const kept = {};
    for (const [name, one] of Object.entries(value)) {
      if (one === "" || one === null || one === undefined || one === false || (Array.isArray(one) && !one.length)) continue;
      kept[name] = typeof one === "object" ? plain(one) : one;
    }
    return kept;
  };

  Alpine.data("flowTerms", () => ({
    grants: ["once", "template", "window"],
    terms: { stages: [] },
    view: "form",
    source: "yaml",
    yaml: "",
    findings: [],
    warnings: [],
    isShown: true,
    isChecking: false,
    isOffline: false,
    asked: 0,
    timer: null,

    init() {
      const area = this.$refs.yaml;
      this.yaml = area.value;
      /* The hidden field is what is sent; the text area sends itself only where no script runs. */
      area.disabled = false;
      area.removeAttribute("name");
      area.addEventListener("input", () => { this.yaml = area.value; this.changed("yaml"); });
      this.check();
    },
    get ready() { return !this.isChecking && !this.isOffline && !this.findings.length; },
    sent() { return this.source === "yaml" ? { yaml: this.yaml } : { document: plain(this.terms) }; },
    /* JSON is YAML, too. */
    submitted() { return this.source === "yaml" ? this.yaml : JSON.stringify(plain(this.terms)); },
    changed(source) {
      this.source = source;
      this.isChecking = true;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.check(), CHECK_AFTER_MS);
    },
    async check() {
      const mine = ++this.asked;
      const form = this.$root.closest("form");
      const tenant = this.$root.dataset.tenant || form.querySelector("[name=tenant]")?.value || "";
      try {
        const answer = await fetch(this.$root.dataset.check, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRFToken": form.querySelector("[name=csrfmiddlewaretoken]").value },
          body: JSON.stringify({ ...this.sent(), tenant }),
        });
        if (!answer.ok) throw new Error(String(answer.status));
        const seen = await answer.json();
        if (mine !== this.asked) return;
        this.isOffline = false;
        this.take(seen);
      } catch {
        if (mine === this.asked) this.isOffline = true;
      }
      if (mine === this.asked) this.isChecking = false;
    },
    take(seen) {
      this.findings = seen.findings;
      this.warnings = seen.warnings;
      this.isShown = seen.document !== null;
      if (this.source === "form") { this.yaml = seen.yaml; this.$refs.yaml.value = seen.yaml; }
      else if (seen.document) this.terms = { ...seen.document, stages: seen.document.stages ?? [] };
    },

    addStage() { this.terms.stages.push({ approvers: { roles: ["approver"] } }); this.changed("form"); },
    removeStage(index) { this.terms.stages.splice(index, 1); this.changed("form"); },
    within(holder, name) { if (!holder[name]) holder[name] = {}; return holder[name]; },
    text(holder, name) { const value = holder?.[name]; return Array.isArray(value) ? value.join(", ") : (value ?? ""); },
    setText(holder, name, text) { holder[name] = text; this.changed("form"); },
    setNumber(holder, name, text) { holder[name] = text === "" ? "" : Number(text); this.changed("form"); },
    minutes(holder, name) { const value = holder?.[name]; return typeof value === "number" ? value / 60 : ""; },
    setMinutes(holder, name, text) { holder[name] = text === "" ? "" : Math.round(Number(text) * 60); this.changed("form"); },
    setList(holder, name, text) {
      holder[name] = text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean);
      this.changed("form");
    },
    has(holder, name, value) { return Array.isArray(holder?.[name]) && holder[name].includes(value); },
    toggle(holder, name, value) {
      const list = Array.isArray(holder[name]) ? holder[name] : [];
      holder[name] = list.includes(value) ? list.filter((one) => one !== value) : [...list, value];
      this.changed("form");
    },
    toggleScope(scope) {
      const chosen = new Set(["once", ...(this.terms.scopes ?? [])]);
      if (!chosen.delete(scope)) chosen.add(scope);
      this.terms.scopes = [...chosen];
      this.changed("form");
    },
    setFlag(name, isOn) { this.terms[name] = isOn; this.changed("form"); },
    switchOn(name, isOn, value) { this.terms[name] = isOn ? value : null; this.changed("form"); },
  }));
});
