// People's devices and invitations, as the edge keeps them: asked for at /connect, and changed there.
(() => {
  "use strict";
  const { device, edge, toast } = self.threefold;
  const { badge, time } = edge;
  const plural = (number, word) => `${number} ${word}${number === 1 ? "" : "s"}`;

  const devices = (list) => {
    const user = list.dataset.personDevices;
    const out = (one) => async () => {
      if (!(await edge.sure(`“${one.name}” is out at once, and comes back only with a new invitation.`))) return;
      await device.post(`/connect/people/${user}/devices/${one.id}/revoke`);
      toast(`“${one.name}” is out.`);
      await devices(list);
    };
    const read = async () =>
      (await edge.get(`/connect/people/${user}/devices`)).devices.map((one) => {
        if (one.revoked_at) return edge.line(one.name, ["Revoked ", time(one.revoked_at)], [badge("Revoked", "red")]);
        const detail = ["Joined ", time(one.enrolled_at), ...(one.seen_at ? [", last used ", time(one.seen_at)] : [])];
        return edge.line(one.name, detail, one.this ? [badge("This device", "accent")] : [], [edge.button("Revoke", one.name, out(one))]);
      });
    return edge.fill(list, read, "No device yet: invite one.");
  };

  const invitations = (list) => {
    const read = async () =>
      (await edge.get("/connect/invitations")).invitations
        .filter((one) => one.state === "open")
        .map((one) => {
          const withdraw = edge.button("Withdraw", `the invitation of ${one.name}`, async () => {
            await device.post(`/connect/invitations/${one.id}/withdraw`);
            toast("The invitation is withdrawn: its link does not work any more.");
            await invitations(list);
          });
          return edge.line(one.name, [`${one.email}, made `, time(one.made_at), ", until ", time(one.expires_at, "full")], [badge(one.role[0].toUpperCase() + one.role.slice(1))], [withdraw]);
        });
    return edge.fill(list, read, "Nobody is invited at the moment.");
  };

  const seen = async () => {
    const cells = (name) => document.querySelectorAll(`[data-${name}-of]`);
    const people = await edge.get("/connect/people").catch(() => ({ people: [] }));
    const by = new Map(people.people.map((one) => [one.id, one]));
    for (const cell of cells("devices")) cell.textContent = by.get(cell.dataset.devicesOf)?.devices ?? "–";
    for (const cell of cells("seen")) {
      const at = by.get(cell.dataset.seenOf)?.seen_at;
      cell.replaceChildren(at ? time(at) : edge.element("span", "muted", "never"));
    }
    edge.said();
  };

  const all = document.querySelector("[data-revoke-all]");
  all?.addEventListener("click", () =>
    edge.attempt(async () => {
      if (!(await edge.sure(`All devices of ${all.dataset.name} are out at once, and open invitations are withdrawn.`))) return;
      const done = await device.post(`/connect/people/${all.dataset.revokeAll}/revoke`);
      toast(`${plural(done.devices, "device")} revoked, ${plural(done.sessions, "session")} ended.`);
      await show();
    }, all));

  const show = () =>
    Promise.all([
      ...[...document.querySelectorAll("[data-person-devices]")].map(devices),
      ...[...document.querySelectorAll("[data-invitations]")].map(invitations),
    ]);
  document.addEventListener("threefold:invited", show);
  show();
  if (document.querySelector("[data-seen-of]")) seen();
})();
