(async () => {
  const packed = document.getElementById('packed');
  try {
    const bytes = Uint8Array.from(atob(packed.textContent), character => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'));
    const script = document.createElement('script');
    script.textContent = await new Response(stream).text();
    document.head.append(script);
  } catch (error) {
    const told = document.createElement('p');
    told.textContent = `This browser cannot draw the figures (${error}): any of 2023 or later can; `
      + 'report.png beside this page shows them too.';
    document.querySelector('section').before(told);
  }
})();
