const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function themed(layout) {
  const copy = structuredClone(layout), text = css('--text'), grid = css('--grid');
  const clear = 'rgba(0,0,0,0)', font = {color: text, size: 13};
  Object.assign(copy, {paper_bgcolor: clear, plot_bgcolor: clear, font});
  for (const key of ['xaxis', 'yaxis'])
    copy[key] = Object.assign({}, copy[key], {gridcolor: grid, linecolor: grid});
  return copy;
}
function draw() {
  const options = {responsive: true, displaylogo: false};
  if (!matchMedia('(hover: hover)').matches) options.displayModeBar = false;
  for (const [id, figure] of Object.entries(FIGURES))
    Plotly.react(id, figure.data, themed(figure.layout), options);
}
draw();
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', draw);
for (const button of document.querySelectorAll('.legend button')) button.onclick = () => {
  const off = button.classList.toggle('off');
  for (const plot of button.closest('section').querySelectorAll('.js-plotly-plot')) {
    const found = plot.data.findIndex(trace => trace.name === button.dataset.name);
    if (found >= 0) Plotly.restyle(plot, {visible: !off}, [found]);
  }
};
