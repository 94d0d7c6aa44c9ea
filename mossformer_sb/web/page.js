// One player at a time; a line in the spectrogram shows where it is, and a click there moves it.
(() => {
  const track = (element) => element.closest && element.closest(".ms-track");
  const player = (figure) => figure.querySelector("audio");
  const show = (audio) => {
    const figure = track(audio);
    if (!figure) return;
    const cursor = figure.querySelector(".ms-cursor");
    cursor.style.opacity = audio.currentTime > 0 ? 0.9 : 0;
    cursor.style.left = `${Math.min(100, (100 * audio.currentTime) / Number(figure.dataset.seconds))}%`;
  };
  document.addEventListener("play", (event) => {
    for (const audio of document.querySelectorAll(".ms-track audio")) if (audio !== event.target) audio.pause();
    const follow = () => {
      show(event.target);
      if (!event.target.paused) requestAnimationFrame(follow);
    };
    follow();
  }, true);
  for (const name of ["timeupdate", "seeked"]) document.addEventListener(name, (event) => show(event.target), true);
  document.addEventListener("click", (event) => {
    const image = event.target.closest && event.target.closest(".ms-image");
    if (!image) return;
    const box = image.getBoundingClientRect();
    const figure = track(image);
    player(figure).currentTime = ((event.clientX - box.left) / box.width) * Number(figure.dataset.seconds);
  });
})();
