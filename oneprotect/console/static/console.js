// The theme switch, live attempts, progress of a replay, and confirmations.
"use strict";

const root = document.documentElement;

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

for (const place of document.querySelectorAll("[data-without-scripts]")) place.hidden = true;

for (const button of document.querySelectorAll("[data-theme-switch]")) {
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    const secure = location.protocol === "https:" ? "; Secure" : "";
    document.cookie = `oneprotect_theme=${root.dataset.theme}; Path=/console; Max-Age=31536000; SameSite=Strict${secure}`;
  });
}

document.addEventListener("submit", (event) => {
  const question = event.target.dataset.confirm;
  if (question && !confirm(question)) {
    event.preventDefault();
    return;
  }
  const busy = event.submitter && event.submitter.dataset.busy;
  if (busy) {
    event.submitter.textContent = busy;
    event.submitter.setAttribute("aria-disabled", "true");
  }
});

const MOST_ROWS = 200;

for (const place of document.querySelectorAll("[data-live]")) {
  const state = place.querySelector("[data-live-state] span");
  const rows = document.querySelector("[data-live-rows]");
  const source = new EventSource(place.dataset.live);
  source.addEventListener("hello", () => { state.textContent = "Live"; });
  source.addEventListener("attempts", (event) => {
    rows.insertAdjacentHTML("afterbegin", event.data);
    while (rows.children.length > MOST_ROWS) rows.lastElementChild.remove();
  });
  source.addEventListener("bye", () => { state.textContent = "Reconnecting…"; });
  source.addEventListener("error", () => {
    state.textContent = source.readyState === EventSource.CLOSED ? "Disconnected: reload the page" : "Reconnecting…";
  });
  addEventListener("pagehide", () => source.close());
}

for (const place of document.querySelectorAll("[data-refresh]")) {
  const refresh = async () => {
    if (place.querySelector("[data-over=yes]")) return;
    if (!document.hidden) {
      try {
        const answer = await fetch(place.dataset.refresh, { redirect: "error" });
        if (answer.ok) {
          const hadFocus = place.contains(document.activeElement);
          place.innerHTML = await answer.text();
          if (hadFocus) place.querySelector("button")?.focus();
        }
      } catch { /* offline for a moment: the next refresh shows the state */ }
    }
    setTimeout(refresh, 700);
  };
  setTimeout(refresh, 700);
}
