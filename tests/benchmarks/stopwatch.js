// How long a page of a Streamlit app takes from a key or a click to its last change. Loaded before each page.
(() => {
  const QUIET = 250; // milliseconds without a change after which a page counts as finished
  let pressed = 0, last = 0;
  const lastOf = {}; // of the charts by name
  const around = (node, place) => (node.nodeType === 1 ? node : node.parentElement)?.closest(place);
  new MutationObserver((changes) => {
    const now = performance.now();
    if (changes.some((one) => one.attributeName === "data-test-script-state")) last = now;
    for (const place of new Set(changes.map((one) => around(one.target, "[class*=st-key-chart_], [data-testid=stMain]")))) {
      if (place) last = now;
      const chart = place?.className.match(/st-key-chart_(\w+)/)?.[1];
      if (chart) lastOf[chart] = now;
    }
  }).observe(document, { subtree: true, childList: true, characterData: true, attributes: true });
  for (const kind of ["keydown", "click"]) addEventListener(kind, () => { pressed = performance.now(); }, true);

  const main = () => document.querySelector("[data-testid=stMain]");
  const plots = (chart) => main()?.querySelectorAll(`.st-key-chart_${chart} .js-plotly-plot`) ?? [];
  const drawing = (chart) => plots(chart).length === 1 && plots(chart)[0].querySelector(".main-svg") && plots(chart)[0].innerHTML;
  const sentence = (pattern) => main()?.innerText.match(new RegExp(pattern))?.[0];

  // title: of the page. charts: that must be drawn, and no page's before. changed: those of them that must look different
  // than now. says: a pattern, of which the page must say something else than now. Resolves to milliseconds from the key or
  // the click to the last change: of the plot, which is the first one that is named, and of all; and to the latter's time
  // of day.
  window.finished = ({ title, charts, changed = [], says = null }) => new Promise((resolve, reject) => {
    const before = changed.map(drawing), said = says && sentence(says);
    pressed = 0;
    const armed = performance.now();
    const there = () =>
      document.querySelector("[data-testid=stApp]")?.dataset.testScriptState === "notRunning" &&
      main()?.querySelector("h1")?.innerText === title &&
      charts.every((chart) => drawing(chart)) &&
      changed.every((chart, place) => drawing(chart) !== before[place]) &&
      (!says || (sentence(says) ?? said) !== said);
    const look = () => {
      if (performance.now() - last > QUIET && last > pressed && there()) {
        const plot = [...changed, ...charts][0];
        resolve({ plot: (lastOf[plot] > pressed ? lastOf[plot] : last) - pressed, all: last - pressed, at: performance.timeOrigin + last });
      } else if (performance.now() - armed > 120_000) {
        const missing = charts.filter((chart) => !drawing(chart));
        const same = changed.filter((chart, place) => drawing(chart) === before[place]);
        reject(new Error(`${title} did not finish: not drawn ${missing}, unchanged ${same}, says ${says && sentence(says)}`));
      } else {
        requestAnimationFrame(look);
      }
    };
    look();
  });

  // How many elements of each kind, as Streamlit calls them, a part of the page has: no plots, no title, nothing unseen.
  const WRAPS = "[data-testid=stFullScreenFrame]";
  const UNCOUNTED = /^(stPlotlyChart|stEmpty|stHtml|stBidiComponent.*)$/;
  const kind = (one) => one.querySelector(`:is(${WRAPS}) :is([data-testid=stPlotlyChart], [data-testid=stDataFrame], [data-testid=stImage])`)
    ?? one.querySelector("[data-testid]");
  window.elements = (part) => {
    const found = {}, blocks = [...document.querySelectorAll(`[data-testid=${part}] :is([data-testid=stPopover], [data-testid=stExpander])`)];
    const single = [...document.querySelectorAll(`[data-testid=${part}] [data-testid=stElementContainer]`)].filter((one) => !one.querySelector("h1"));
    for (const one of [...blocks, ...single.map(kind)]) {
      const name = one?.dataset.testid;
      if (name && !UNCOUNTED.test(name)) found[name] = (found[name] ?? 0) + 1;
    }
    return found;
  };
})();
