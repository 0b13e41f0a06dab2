// Pictures have a light and a dark form. On the site, the page's switch chooses, not only the system's setting.
const choose = () => {
  const dark = document.body.dataset.mdColorScheme === "slate";
  document.querySelectorAll("picture source").forEach((source) => { source.media = dark ? "all" : "not all"; });
};
new MutationObserver(choose).observe(document.body, { attributes: true, attributeFilter: ["data-md-color-scheme"] });
choose();
