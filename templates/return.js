// Asks the relay how it stands, for as long as that is not known, and shows the
// page anew when there is news. Without it the page looks again by itself.
(function () {
  'use strict';
  var patience = 10 * 60 * 1000; // then the page stands still; reloading it begins anew
  var pause = 5000; // where the relay has no room for one more stream
  document.addEventListener('DOMContentLoaded', function () {
    var shown = document.querySelector('[data-now]');
    if (!shown) { return; }
    function again() { location.reload(); }
    if (!window.EventSource) { setTimeout(again, pause); return; }
    var news = new EventSource(shown.dataset.news || location.href);
    news.addEventListener('state', function (event) {
      if (event.data !== shown.dataset.now) { news.close(); again(); }
    });
    news.onerror = function () { // it connects again by itself, unless it was refused
      if (news.readyState === EventSource.CLOSED) { setTimeout(again, pause); }
    };
    setTimeout(function () { news.close(); }, patience);
  });
})();
