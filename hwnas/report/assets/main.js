// Begins, and draws again where the colours or the paper change.

function drawAll() {
  drawFront();
  drawNetworks();
  drawShares();
  drawParallel();
  drawProgress();
  drawTraining();
  drawParity();
}

const PRINT_WIDTH = 680;

function fit(width) {
  for (const plot of document.querySelectorAll(".plot.js-plotly-plot")) {
    Plotly.relayout(plot, width ? { width: width, autosize: false } : { width: undefined, autosize: true });
  }
}

startFront();
startChoose();
startTable();
startNetworks();
startParallel();
startCurves();

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
addEventListener("beforeprint", () => { document.documentElement.classList.add("light"); drawAll(); fit(PRINT_WIDTH); });
addEventListener("afterprint", () => { document.documentElement.classList.remove("light"); drawAll(); fit(null); });
addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
