// Shows what happens in the conversation as it happens. Without it the page
// loads itself anew.
(function () {
  'use strict';
  var pause = 1000;
  function show(text) {
    var page = new DOMParser().parseFromString(text, 'text/html');
    ['said', 'stands', 'variables'].forEach(function (id) {
      var shown = document.getElementById(id), now = page.getElementById(id);
      if (!now || now.innerHTML === shown.innerHTML) { return; }
      // What has been said stays, so that only what is new is read out.
      var kept = id === 'said' && now.children.length > shown.children.length ? shown.children.length : 0;
      if (!kept) { shown.replaceChildren(); }
      shown.append.apply(shown, Array.prototype.slice.call(now.children, kept));
    });
    document.title = page.title;
  }
  function look() {
    if (document.hidden) { setTimeout(look, pause); return; }
    fetch(location.href, {cache: 'no-store'})
      .then(function (answer) { return answer.text(); })
      .then(show)
      .catch(function () {}) // the sandbox is away; it is asked again
      .then(function () { setTimeout(look, pause); });
  }
  setTimeout(look, pause);
})();
