// What pages need that speak to /connect: asking, saying what went wrong, lines of a list, being sure, copying.
(() => {
  "use strict";
  const { device } = self.threefold;
  const element = (tag, className = "", text = "") => Object.assign(document.createElement(tag), { className, textContent: text });
  const badge = (text, tone) => element("span", `badge tone-${tone}`, text);

  const time = (at, how = "ago") => {
    const shown = element("time");
    shown.dateTime = at;
    shown.dataset.when = how;
    return shown;
  };
  const said = () => document.dispatchEvent(new Event("threefold:shown")); // times.js says the times in words

  const get = async (address) => {
    const response = await device.fetch(address, { headers: { Accept: "application/json" } });
    const body = await response.json().catch(() => ({}));
    if (!response.ok) throw Object.assign(new Error(), { problem: body, status: response.status });
    return body;
  };

  const words = (error) => (error.status ? self.threefold.problemText(error.problem, error.status) : "No connection. Try again in a moment.");
  const attempt = async (run, source = null) => {
    if (source) source.disabled = true;
    try {
      return await run();
    } catch (error) {
      self.threefold.toast(words(error), { bad: true });
    } finally {
      if (source) source.disabled = false;
    }
  };

  const button = (text, about, run) => {
    const made = element("button", "button small", text);
    made.type = "button";
    made.append(element("span", "hear", `: ${about}`));
    made.addEventListener("click", () => attempt(run, made));
    return made;
  };
  const line = (title, detail, badges = [], actions = []) => {
    const item = element("li");
    const about = element("div", "grow bin-words");
    const head = element("div", "row");
    head.append(element("span", "strong", title), ...badges);
    const small = element("span", "muted small");
    small.append(...detail);
    about.append(head, small);
    item.append(about, ...actions);
    return item;
  };
  // The lines of a list; where they cannot be had, that is said in their place, with a way to ask again.
  const fill = async (list, read, empty) => {
    try {
      const lines = await read();
      list.replaceChildren(...(lines.length ? lines : [element("li", "muted", empty)]));
      said();
    } catch (error) {
      const item = element("li", "form-error", words(error));
      const again = element("button", "button small push", "Try again");
      again.type = "button";
      again.addEventListener("click", () => fill(list, read, empty));
      item.append(again);
      list.replaceChildren(item);
    }
  };

  // Ask before what cannot be taken back; resolves to whether it is meant.
  const sure = (text) =>
    new Promise((resolve) => {
      const dialog = document.getElementById("sure");
      const yes = dialog.querySelector("[data-sure]");
      dialog.querySelector("[data-sure-text]").textContent = text;
      let meant = false;
      const mean = () => {
        meant = true;
        dialog.close();
      };
      yes.addEventListener("click", mean);
      dialog.addEventListener("close", () => {
        yes.removeEventListener("click", mean);
        resolve(meant);
      }, { once: true });
      dialog.showModal();
    });

  // data-copy-of="id": of an input its value, of anything else its text. The button itself says what came of it, so that
  // it is seen and heard in a dialog, too.
  document.addEventListener("click", async ({ target }) => {
    const asked = target.closest?.("[data-copy-of]");
    const from = asked && document.getElementById(asked.dataset.copyOf);
    if (!from) return;
    const before = (asked.dataset.before ||= asked.textContent.trim());
    try {
      await navigator.clipboard.writeText(from.value ?? from.textContent);
      asked.lastChild.textContent = "Copied";
    } catch {
      if (from.select) from.select();
      else getSelection().selectAllChildren(from);
      asked.lastChild.textContent = "Selected: copy it with the keyboard";
    }
    setTimeout(() => (asked.lastChild.textContent = before), 4000);
  });

  self.threefold.edge = { element, badge, time, said, get, words, attempt, button, line, fill, sure };
})();
