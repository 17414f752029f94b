// Hides and shows fields as the answers above them change, and sends a form
// once. Without it everything is shown, and the server decides the same.
(() => {
  'use strict';
  document.documentElement.classList.add('js');

  // To some 1,000 and 1.000 are a thousand, to others one: it is no answer.
  const number = text => {
    text = text.trim().replace(/^([^.,]*),([^.,]*)$/, '$1.$2');
    const clear = /^[+-]?[0-9]{1,18}(\.[0-9]{1,15})?$/.test(text) && !/^[+-]?[1-9][0-9]{0,2}\.[0-9]{3}$/.test(text);
    return clear ? Number(text) : null;
  };

  // What a field holds, as the server reads it.
  const valueOf = field => {
    const inputs = [...field.querySelectorAll('input, select, textarea')];
    const ticked = inputs.filter(i => i.checked).map(i => i.value);
    switch (field.dataset.type) {
      case 'tick': return ticked.length > 0;
      case 'ticks': return ticked;
      case 'radio': return ticked[0] ?? null;
      case 'number': return number(inputs[0].value);
      default: return inputs[0].value.trim() || null;
    }
  };

  const same = (a, b) => a === b && typeof a !== 'object' || a === null && b === null;
  const ordered = (a, b) => typeof a === typeof b && (typeof a === 'number' || typeof a === 'string');

  // A condition is ["=", x, y], ["field", name], ["is", literal] and so on.
  const judge = ([op, ...operands], form) => {
    const of = c => judge(c, form);
    const [x, y] = operands;
    switch (op) {
      case 'is': return x;
      case 'list': return operands.map(of);
      case 'field': return form[x] ?? null;
      case 'not': return of(x) !== true;
      case 'and': return of(x) === true && of(y) === true;
      case 'or': return of(x) === true || of(y) === true;
      case '=': return same(of(x), of(y));
      case '<': return ordered(of(x), of(y)) && of(x) < of(y);
      case '<=': return ordered(of(x), of(y)) && of(x) <= of(y);
      case 'in': return Array.isArray(of(y)) && of(y).some(item => same(of(x), item));
    }
    return null;
  };

  document.addEventListener('DOMContentLoaded', () => {
    if (!document.querySelector('form')) return;
    // Asked of the document: a field may be called querySelectorAll, or constructor.
    const fields = [...document.querySelectorAll('[data-name]')];
    const show = () => {
      const values = Object.create(null);
      for (const field of fields) {
        const condition = field.dataset.if;
        const on = !condition || judge(JSON.parse(condition), values) === true;
        field.toggleAttribute('data-off', !on);
        if (on) values[field.dataset.name] = valueOf(field);
      }
    };
    document.addEventListener('input', show);
    document.addEventListener('change', show);

    const button = document.querySelector('form button');
    const label = button.textContent;
    const patience = 15000; // then whoever has stopped the sending may send again
    let sent = false;
    const ready = () => {
      sent = false;
      button.removeAttribute('aria-disabled');
      button.textContent = label;
    };
    document.addEventListener('submit', event => {
      if (sent) return event.preventDefault();
      sent = true;
      button.setAttribute('aria-disabled', 'true');
      button.textContent = button.dataset.sending;
      setTimeout(ready, patience);
    });
    // Also when the browser brings back a page that it has kept.
    addEventListener('pageshow', () => {
      ready();
      show();
    });

    document.querySelector('.summary')?.focus();
  });
})();
