// Plays a result: every token knows its step; shown are those up to the one that the slider stands at.
let timer = null;
const root = () => element.querySelector(".codd");

function show(step) {
  const result = root(), steps = +result.dataset.steps;
  step = Math.max(0, Math.min(steps, step));
  result.querySelector("input").value = step;
  result.querySelector("output").textContent = `step ${step} of ${steps}`;
  for (const token of result.querySelectorAll(".tokens .token")) {
    token.classList.toggle("masked", +token.dataset.step > step);
    token.classList.toggle("now", +token.dataset.step === step && step < steps);
  }
  return step;
}

function pause() {
  clearInterval(timer);
  timer = null;
  element.querySelector(".play")?.setAttribute("aria-pressed", "false");
}

function play() {
  pause();
  const steps = +root().dataset.steps;
  let step = +root().querySelector("input").value;
  if (step >= steps) step = show(0);
  root().querySelector(".play").setAttribute("aria-pressed", "true");
  timer = setInterval(() => {
    step = show(step + 1);
    if (step >= steps) pause();
  }, Math.max(100, Math.min(600, 8000 / steps)));
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button || !root()) return;
  if (button.classList.contains("play")) return timer ? pause() : play();
  pause();
  show(+root().querySelector("input").value + (button.classList.contains("forth") ? 1 : -1));
});
element.addEventListener("input", (event) => {
  pause();
  show(+event.target.value);
});
watch("value", () => {
  pause();
  if (root() && !matchMedia("(prefers-reduced-motion: reduce)").matches) play();
});
