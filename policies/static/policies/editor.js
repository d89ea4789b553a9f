/* The policy editor: one document in two views. The server turns one into the other and says what is wrong. */
document.addEventListener("alpine:init", () => {
  const CHECK_AFTER_MS = 350;
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  /* Without what is empty, as the server writes it. */
  const plain = (value) => {
    if (Array.isArray(value)) return value;
    const kept = {};
    for (const [name, one] of Object.entries(value)) {
      if (one === "" || one === null || one === undefined || (Array.isArray(one) && !one.length)) continue;
      if (typeof one === "object" && !Array.isArray(one)) {
        const inner = plain(one);
        if (Object.keys(inner).length || name === "mask") kept[name] = inner;
      } else kept[name] = one;
    }
    return kept;
  };

  Alpine.data("policyEditor", () => ({
    words: read("policy-words"),
    scope: {},
    rules: [],
    yaml: "",
    view: "form",
    source: "yaml",
    open: null,
    findings: [],
    warnings: [],
    diff: [],
    isShown: true,
    isChecking: false,
    isOffline: false,
    asked: 0,
    timer: null,

    init() {
      this.yaml = read("policy-yaml");
      this.take(read("policy-seen"));
    },
    get ready() { return !this.isChecking && !this.isOffline && !this.findings.length; },

    /* -- talking to the server */
    changed(source) {
      this.source = source;
      this.isChecking = true;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.check(), CHECK_AFTER_MS);
    },
    sent() {
      if (this.source === "yaml") return { yaml: this.yaml };
      return { document: { scope: plain(this.scope), rules: this.rules.map(plain) } };
    },
    async check() {
      const mine = ++this.asked;
      try {
        const answer = await fetch(this.$root.dataset.check, {
          method: "POST",
          headers: { "Content-Type": "application/json", "X-CSRFToken": this.$root.querySelector("[name=csrfmiddlewaretoken]").value },
          body: JSON.stringify(this.sent()),
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
      this.diff = seen.diff;
      this.isShown = seen.document !== null;
      if (this.source === "form") this.yaml = seen.yaml;
      else if (seen.document) { this.scope = seen.document.scope; this.rules = seen.document.rules; }
    },

    /* -- the form */
    add() {
      const names = this.rules.map((rule) => rule.name);
      let number = this.rules.length + 1;
      while (names.includes(`rule-${number}`)) number += 1;
      this.rules.push({ name: `rule-${number}`, effect: "allow" });
      this.open = this.rules.length - 1;
      this.changed("form");
    },
    remove(index) { this.rules.splice(index, 1); this.open = null; this.changed("form"); },
    copy(index) {
      const twin = JSON.parse(JSON.stringify(this.rules[index]));
      twin.name = `${twin.name}-copy`;
      this.rules.splice(index + 1, 0, twin);
      this.open = index + 1;
      this.changed("form");
    },
    text(holder, name) { const value = holder[name]; return Array.isArray(value) ? value.join(", ") : (value ?? ""); },
    setList(holder, name, text) {
      holder[name] = text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean);
      this.changed("form");
    },
    setText(holder, name, text) { holder[name] = text; this.changed("form"); },
    setNumber(holder, name, text) { holder[name] = text === "" ? "" : Number(text); this.changed("form"); },
    pairs(value) { return Object.entries(value ?? {}).map(([name, one]) => `${name}=${one}`).join(", "); },
    setPairs(holder, name, text) {
      const pairs = text.split(/[,\n]/).map((one) => one.trim()).filter(Boolean).map((one) => one.split("="));
      holder[name] = Object.fromEntries(pairs.map(([key, ...rest]) => [key.trim(), rest.join("=").trim()]));
      this.changed("form");
    },
    has(holder, name, value) { return Array.isArray(holder[name]) && holder[name].includes(value); },
    toggle(holder, name, value) {
      const list = Array.isArray(holder[name]) ? holder[name] : [];
      holder[name] = list.includes(value) ? list.filter((one) => one !== value) : [...list, value];
      this.changed("form");
    },
    inner(rule, name) { return rule[name] ?? {}; },
    within(rule, name) { if (!rule[name]) rule[name] = {}; return rule[name]; },
    setEffect(rule, effect) {
      rule.effect = effect;
      for (const [name, owner] of [["approval", "require_approval"], ["mask", "mask"], ["limit", "limit"], ["filter", "filter"]]) {
        if (owner !== effect) delete rule[name];
      }
      if (effect === "require_approval") rule.approval = { flow: this.words.flows[0] ?? "" };
      if (effect === "mask") rule.mask = { method: "redact" };
      this.changed("form");
    },
    titleOf(effect) { return this.words.effects.find((one) => one.value === effect)?.title ?? effect; },
    /* A rule as a sentence. */
    summary(rule) {
      const join = (value) => (Array.isArray(value) ? value.join(", ") : value);
      const who = join(rule.agents) || join(rule.groups) || join(rule.sponsors) || this.pairs(rule.claims) || join(this.scope.agents) || "…";
      const where = join(rule.targets) || join(rule.environments) || this.pairs(rule.target_labels) || join(this.scope.targets) || join(this.scope.environments) || "…";
      const what = join(rule.operations) || "everything";
      const on = join(rule.objects) ? ` on ${join(rule.objects)}` : "";
      const columns = join(rule.columns) ? ` (${join(rule.columns)})` : "";
      const hazards = join(rule.hazards) ? `, ${join(rule.hazards)}` : "";
      return `${who} → ${where}: ${what}${on}${columns}${hazards}${rule.when ? ", at times" : ""}${rule.condition ? ", on a condition" : ""}`;
    },
    wrong(index) { return this.findings.filter((one) => one.field.startsWith(`rules[${index}]`)); },
    showRule(field) {
      const found = /^rules\[(\d+)\]/.exec(field);
      if (found) { this.view = "form"; this.open = Number(found[1]); }
    },
    indent(event) {
      const area = event.target;
      area.setRangeText("  ", area.selectionStart, area.selectionEnd, "end");
      this.yaml = area.value;
      this.changed("yaml");
    },
    lineClass(line) {
      if (line.startsWith("+++") || line.startsWith("---") || line.startsWith("@@")) return "is-head";
      return line.startsWith("+") ? "is-new" : line.startsWith("-") ? "is-gone" : "";
    },
  }));
});
