// Forms that make an invitation. Its link is shown once, in place of the form, and gone when the dialog is closed.
(() => {
  "use strict";
  const { device, edge } = self.threefold;

  const wrong = (form, fields = {}) => {
    for (const shown of form.querySelectorAll("[data-error]")) {
      const text = fields[shown.dataset.error] || "";
      shown.textContent = text && text[0].toUpperCase() + text.slice(1);
      const input = form.elements[shown.dataset.error];
      if (text) input?.setAttribute?.("aria-invalid", "true");
      else input?.removeAttribute?.("aria-invalid");
    }
    form.querySelector("[aria-invalid]")?.focus();
  };
  // Said in the dialog: what lies under it nobody sees or hears.
  const say = (form, text) => {
    let place = form.querySelector("[data-invite-wrong]");
    if (!place) {
      place = edge.element("p", "form-error small");
      place.dataset.inviteWrong = "";
      place.setAttribute("role", "alert");
      form.prepend(place);
    }
    place.textContent = text;
    place.hidden = !text;
  };

  const shown = (form, invited) => {
    const place = form.parentElement.querySelector("[data-invited]");
    place.querySelector("[data-invited-who]").textContent = `${invited.user.name} is invited.`;
    place.querySelector("[data-invited-until]").replaceChildren(edge.time(invited.expires_at, "full"));
    place.querySelector("[data-invited-link]").value = invited.url;
    form.hidden = true;
    place.hidden = false;
    edge.said();
    place.querySelector("[data-invited-link]").focus();
    place.querySelector("[data-invited-link]").select();
  };

  document.addEventListener("submit", (event) => {
    const form = event.target.closest?.("form[data-invite]");
    if (!form) return;
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(form)].map(([name, value]) => [name, value.trim()]).filter(([, value]) => value));
    const send = form.querySelector("[type=submit]");
    wrong(form);
    say(form, "");
    send.disabled = true;
    device
      .post("/connect/invitations", values)
      .then((invited) => {
        shown(form, invited);
        document.dispatchEvent(new Event("threefold:invited"));
      })
      .catch((error) => {
        say(form, edge.words(error));
        wrong(form, error.problem?.fields);
      })
      .finally(() => (send.disabled = false));
  });

  document.addEventListener("close", ({ target }) => {
    const form = target.querySelector?.("form[data-invite]");
    if (!form) return;
    target.querySelector("[data-invited-link]").value = "";
    target.querySelector("[data-invited]").hidden = true;
    form.hidden = false;
    form.reset();
    wrong(form);
    say(form, "");
  }, true);
})();
