// Tables that scroll sideways do so by keyboard too; the theme wraps them when a page has loaded.
document$.subscribe(() => setTimeout(() => {
  document.querySelectorAll(".md-typeset__scrollwrap").forEach((wrap) => { wrap.tabIndex = 0; });
}));
