'use strict';
(() => {
const $$ = id => document.getElementById(id);
const data = JSON.parse($$('data').textContent);
const cards = data.cards, key = 'fastnoisy-review-' + data.data, WORDS = {accept: 'accepted', keep: 'kept', other: 'other label', unsure: 'unsure'};
const byId = new Map(cards.map((c, i) => [c.id, i]));
cards.forEach((c, i) => { c.rank = i; });
let decisions = new Map(), history = [], view = [], now = 0, columns = 1, height = 470, drawn = new Map(), waiting = null;

// what was decided

let away = new Map(); // decisions on samples that have no card here, as after another training
const isDecision = d => d && Number.isInteger(d.id) && typeof d.given == 'string' && Object.hasOwn(WORDS, d.decision)
  && (d.decision == 'unsure' ? d.label === null : data.classes.includes(d.label));
function fitting(d, c) { // the decision in the words of this card
  const said = d.label === null ? 'unsure' : d.label === c.given ? 'keep' : d.label === c.suggested ? 'accept' : 'other';
  return {decision: said, label: d.label, at: String(d.at || '')};
}
const record = ([id, d]) => { const c = cards[byId.get(id)]; return {id, row: c.row, item: c.item, given: c.given, suggested: c.suggested, p: c.p, ...d}; };
const records = () => [...[...decisions].map(record), ...away.values()].sort((a, b) => a.id - b.id);
const asText = () => JSON.stringify({format: data.format, data: data.data, decisions: records()});
function fromText(text) { // two Maps, or a sentence that says why not
  let o;
  try { o = JSON.parse(text); } catch (e) { return 'This file is no saved review.'; }
  if (!o || o.format !== data.format || !Array.isArray(o.decisions)) return 'This file is no saved review.';
  if (o.data !== data.data) return 'This review was saved for other data.';
  const here = new Map(), there = new Map();
  for (const d of o.decisions) if (isDecision(d)) {
    const c = cards[byId.get(d.id)];
    if (!c) there.set(d.id, d);
    else if (c.given === d.given) here.set(d.id, fitting(d, c));
  }
  return {here, there};
}
function keep() {
  waiting = null;
  try { localStorage.setItem(key, asText()); }
  catch (e) { say('This browser does not keep the decisions: use Save now and then.', true); }
}
function keepSoon() { if (waiting === null) waiting = setTimeout(keep, 150); }
addEventListener('pagehide', () => { if (waiting !== null) keep(); });
addEventListener('storage', e => { // another window with the same page
  if (e.key !== key || !e.newValue) return;
  const found = fromText(e.newValue);
  if (typeof found != 'string') { decisions = found.here; away = found.there; refresh(); }
});

function set(changes) { // [id, decision or null] pairs, one step of undo
  history.push(changes.map(([id]) => [id, decisions.get(id) || null]));
  put(changes);
}
function put(changes) {
  for (const [id, d] of changes) d ? decisions.set(id, d) : decisions.delete(id);
  keepSoon();
  refresh();
}
function undo() {
  if (!history.length) return say('There is nothing to undo.');
  const changes = history.pop();
  put(changes);
  const place = view.indexOf(byId.get(changes[0][0]));
  if (place >= 0) go(place);
  say(changes.length == 1 ? 'Undone.' : 'Undone: ' + changes.length + ' decisions.');
}
const made = (decision, label) => ({decision, label, at: new Date().toISOString().slice(0, 19) + 'Z'});

function decide(place, decision, label) {
  const c = cards[view[place]];
  if (!c) return;
  if (decision == 'accept') { if (c.suggested === null) return say('There is no suggestion to accept.'); label = c.suggested; }
  if (decision == 'keep') label = c.given;
  if (decision == 'unsure') label = null;
  if (decision == 'other' && label === undefined) return choose(place);
  if (decision == 'other' && label === c.suggested) decision = 'accept';
  if (decision == 'other' && label === c.given) decision = 'keep';
  const was = decisions.get(c.id);
  const same = was && was.decision == decision && was.label === label && decision != 'other';
  set([[c.id, same ? null : made(decision, label)]]);
  say((same ? 'Taken back' : WORDS[decision][0].toUpperCase() + WORDS[decision].slice(1) + (decision == 'other' ? ': ' + label : '')) + '. ' + $$('count').textContent);
  now = place;
  if (!same) { const next = nextOpen(place); if (next !== null) go(next); }
}
function nextOpen(place) {
  for (let i = place + 1; i < view.length; i++) if (!decisions.has(cards[view[i]].id)) return i;
  return null;
}
function decideAll(decision) {
  const open = view.map(i => cards[i]).filter(c => !decisions.has(c.id) && (decision == 'keep' || c.suggested !== null));
  if (!open.length) return say('Nothing that is shown is still to be decided.');
  if (!confirm((decision == 'keep' ? 'Keep the given label of ' : 'Accept the suggested label of ') + open.length + ' samples?')) return;
  set(open.map(c => [c.id, made(decision, decision == 'keep' ? c.given : c.suggested)]));
  say(open.length + ' samples ' + WORDS[decision] + '. ' + $$('count').textContent);
}

// a third label

let choosing = null;
function listLabels() {
  const part = $$('chooseinput').value.toLowerCase(), list = $$('chooselist');
  list.replaceChildren(...data.classes.filter(o => o.toLowerCase().includes(part)).slice(0, 500).map(o => element('option', {value: o}, o)));
  if (list.options.length) list.selectedIndex = 0;
}
function choose(place) {
  choosing = place;
  now = place;
  $$('chooseinput').value = '';
  listLabels();
  $$('choose').returnValue = '';
  $$('choose').showModal();
  $$('chooseinput').focus();
}
$$('chooseinput').addEventListener('input', listLabels);
$$('chooseinput').addEventListener('keydown', e => {
  const list = $$('chooselist');
  if (e.key == 'ArrowDown') list.selectedIndex = Math.min(list.options.length - 1, list.selectedIndex + 1);
  else if (e.key == 'ArrowUp') list.selectedIndex = Math.max(0, list.selectedIndex - 1);
  else return;
  e.preventDefault();
});
$$('chooselist').addEventListener('dblclick', () => $$('choose').close('ok'));
$$('chooselist').addEventListener('keydown', e => { if (e.key == 'Enter') { e.preventDefault(); $$('choose').close('ok'); } });
$$('choose').addEventListener('close', () => {
  const label = $$('chooselist').value, place = choosing;
  choosing = null;
  if ($$('choose').returnValue == 'ok' && label && place !== null) decide(place, 'other', label);
  else if (place !== null) go(place);
});

// filters and order

const stateOf = c => decisions.has(c.id) ? decisions.get(c.id).decision : 'open';
const pairOf = c => JSON.stringify([c.given, c.suggested]);
const kinds = {flagged: ['flagged', c => c.flagged], other: ['not flagged', c => !c.flagged]};
for (const name of new Set(cards.flatMap(c => c.marks))) kinds[name] = [name, c => c.marks.includes(name)];
const splits = new Set(cards.map(c => c.more.split).filter(o => o));
if (splits.size > 1 && splits.size < 10) for (const name of splits) kinds['split ' + name] = ['split: ' + name, c => c.more.split === name];
function fill(select, rows) { select.replaceChildren(...rows.map(([value, text]) => element('option', {value}, text))); }
function fillFilters() {
  const counts = new Map();
  for (const c of cards) counts.set(pairOf(c), (counts.get(pairOf(c)) || 0) + 1);
  const rows = [...counts].sort((a, b) => b[1] - a[1]).map(([pair, n]) => {
    const [given, suggested] = JSON.parse(pair);
    return [pair, given + ' → ' + (suggested === null ? 'no other' : suggested) + ' (' + n + ')'];
  });
  fill($$('pair'), [['', 'all'], ...rows]);
  const found = Object.entries(kinds).filter(([name, [, is]]) => cards.some(is));
  fill($$('kind'), [['', 'all'], ...found.map(([name, [text]]) => [name, text])]);
  $$('kindlabel').hidden = found.length < 2;
}
const ORDERS = {rank: c => c.rank, p: c => c.p === null ? 2 : -c.p, alike: c => c.alike, row: c => c.row === null ? c.id : c.row};
function choice() {
  const pair = $$('pair').value, state = $$('state').value, kind = $$('kind').value, least = $$('least').value/100, find = $$('find').value.toLowerCase();
  $$('leastsaid').textContent = $$('least').value + ' %';
  view = [];
  cards.forEach((c, i) => {
    if (pair && pairOf(c) !== pair || state && stateOf(c) != state || kind && !kinds[kind][1](c)) return;
    if (least && !(c.p >= least) || find && !nameOf(c).toLowerCase().includes(find)) return;
    view.push(i);
  });
  const by = ORDERS[$$('order').value];
  view.sort((a, b) => by(cards[a]) - by(cards[b]) || a - b);
  for (const o of drawn.values()) o.remove();
  drawn.clear();
  now = 0;
  refresh();
  say(view.length + ' of ' + cards.length + ' cards shown.');
}
for (const o of ['pair', 'state', 'kind', 'order']) $$(o).addEventListener('change', choice);
$$('least').addEventListener('input', choice);
$$('find').addEventListener('input', choice);

// one card

function element(tag, attributes, ...children) {
  const res = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes || {})) k == 'class' ? res.className = v : res.setAttribute(k, v);
  res.append(...children.filter(o => o !== null));
  return res;
}
const nameOf = c => c.item;
const titleOf = c => /^\d+$/.test(c.item) ? (c.row === null ? 'sample ' : 'row ') + c.item : (c.row === null ? '' : 'row ' + c.row + ': ') + c.item;
function shortTitle(c) { // the end of a long name tells more than the folders before it
  const name = c.item.split(/[\\/]/).pop(), row = titleOf(c).slice(0, titleOf(c).length - c.item.length);
  return row + (name.length > 22 ? name.slice(0, 5) + '…' + name.slice(-16) : name);
}
const percent = p => p === null ? 'not known' : p > .995 ? 'over 99 %' : p < .005 ? 'under 1 %' : Math.round(100*p) + ' %';
function picture(text, alt) {
  const res = element('img', {alt, src: 'data:image/webp;base64,' + text, decoding: 'async'});
  res.addEventListener('load', () => { if (Math.max(res.naturalWidth, res.naturalHeight) <= 40) res.classList.add('tiny'); });
  return res;
}
const COLORS = ['currentColor', '#c2571a', '#2c8a57', '#8b5bb5', '#a0862a', '#b84a75'];
function plot(channels, alt) {
  const space = 'http://www.w3.org/2000/svg', res = document.createElementNS(space, 'svg'), w = 300, h = 110;
  const known = channels.flat().filter(v => v !== null), low = Math.min(...known), high = Math.max(...known), range = high - low || 1;
  res.setAttribute('viewBox', '-3 -3 306 116');
  res.setAttribute('preserveAspectRatio', 'none');
  res.setAttribute('role', 'img');
  res.setAttribute('aria-label', alt);
  channels.forEach((values, k) => {
    const line = document.createElementNS(space, 'path');
    let pen = 'M', d = '';
    values.forEach((v, i) => {
      if (v === null) { pen = 'M'; return; }
      d += pen + (i*w/Math.max(values.length - 1, 1)).toFixed(1) + ' ' + (h - (v - low)/range*h).toFixed(1);
      pen = 'L';
    });
    line.setAttribute('d', d);
    for (const [a, v] of [['fill', 'none'], ['stroke', COLORS[k % 6]], ['stroke-width', '1.3'], ['vector-effect', 'non-scaling-stroke']]) line.setAttribute(a, v);
    res.append(line);
  });
  return res;
}
function rowTable(c) {
  const t = data.table, order = t.order[c.id] || t.names.slice(0, 12).map((_, i) => i), usual = c.suggested === null ? null : t.usual[c.suggested];
  const near = c.near.filter(i => t.rows[i]);
  const head = ['', 'this row', ...(usual ? ['usual for ' + c.suggested] : []), ...near.map(i => 'row ' + (data.names[i] || i))];
  const body = order.map(k => element('tr', {}, element('th', {scope: 'row'}, t.names[k]), element('td', {}, element('b', {}, t.rows[c.id][k])),
    usual ? element('td', {}, usual[k]) : null, ...near.map(i => element('td', {}, t.rows[i][k]))));
  return element('table', {}, element('thead', {}, element('tr', {}, ...head.map(o => element('th', {scope: 'col'}, o)))), element('tbody', {}, ...body));
}
function show(id, alt, c) {
  const {image, series, text} = data.contents;
  if (image && image[id] !== undefined) return picture(image[id], alt);
  if (series && series[id] !== undefined) return plot(series[id], alt);
  if (text && text[id] !== undefined) return c ? element('pre', {dir: 'auto'}, text[id]) : document.createTextNode(text[id].slice(0, 90));
  if (c && data.table) return rowTable(c);
  return document.createTextNode('');
}
function nearOf(c) {
  if (!c.near.length || data.table) return null;
  const isText = data.contents.text && data.contents.text[c.near[0]] !== undefined;
  const one = id => element('span', {class: isText ? 'one text' : 'one', title: data.names[id]}, show(id, 'example of ' + c.suggested + ': ' + data.names[id], null));
  return element('div', {class: 'near'}, element('span', {}, 'like it in ' + c.suggested), ...c.near.map(one));
}
function draw(place) {
  const c = cards[view[place]], said = c.suggested === null ? 'no other label in sight' : c.suggested;
  const title = titleOf(c);
  const labels = element('p', {class: 'labels'}, 'given ', element('b', {class: 'from'}, c.given), ' → ', element('b', {}, said));
  const more = Object.entries(c.more).map(([k, v]) => k + ': ' + v).join(', ');
  const facts = element('p', {class: 'facts', title: c.why}, (c.flagged ? 'Wrong with probability ' + percent(c.p) + '. ' : c.marks.length ? 'Not flagged. ' : 'Not flagged, next in the ranking. ')
    + c.marks.map(o => o[0].toUpperCase() + o.slice(1) + '. ').join('') + c.why + (more ? ' ' + more + '.' : ''));
  const buttons = element('div', {class: 'buttons', role: 'group', 'aria-label': 'Decision on ' + title});
  for (const [what, text, name] of [['accept', 'Accept', 'Accept ' + said], ['keep', 'Keep', 'Keep ' + c.given], ['other', 'Other', 'Another label'], ['unsure', 'Unsure', 'Unsure']]) {
    const b = element('button', {'data-do': what, 'aria-label': name, title: name}, text);
    if (what == 'accept' && c.suggested === null) b.disabled = true;
    buttons.append(b);
  }
  const alt = title + ', given label ' + c.given;
  const res = element('article', {class: 'card', 'data-id': c.id, tabindex: '-1', 'aria-label': alt + ', suggested ' + said, 'aria-posinset': place + 1, 'aria-setsize': view.length},
    element('h3', {title}, shortTitle(c)), labels, element('div', {class: 'show', tabindex: '-1'}, show(c.id, alt, c)), facts, nearOf(c), buttons);
  return res;
}
function paint(card, c) {
  const d = decisions.get(c.id);
  d ? card.dataset.decision = d.decision : delete card.dataset.decision;
  for (const b of card.querySelectorAll('.buttons button')) {
    const is = !!d && d.decision == b.dataset.do;
    b.setAttribute('aria-pressed', is);
    if (b.dataset.do == 'other') b.textContent = is ? d.label : 'Other';
  }
}

// the cards that are in sight

const area = $$('cards');
function measure() {
  const style = getComputedStyle(area), width = area.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
  height = parseFloat(getComputedStyle(document.documentElement).getPropertyValue('--card'));
  columns = Math.max(1, Math.floor((width + 12)/(data.table ? 420 : 300)));
  return [width, parseFloat(style.paddingLeft)];
}
function refresh() {
  const [width, left] = measure(), each = (width - 12*(columns - 1))/columns, top = area.getBoundingClientRect().top;
  area.style.height = Math.max(80, Math.ceil(view.length/columns)*height) + 'px';
  $$('none').hidden = view.length > 0;
  const first = Math.max(0, Math.floor((-top - innerHeight/2)/height))*columns, last = Math.min(view.length, Math.ceil((-top + 1.5*innerHeight)/height)*columns);
  for (const [place, o] of drawn) if ((place < first || place >= last) && place !== now) { o.remove(); drawn.delete(place); }
  const wanted = [];
  for (let place = first; place < last; place++) wanted.push(place);
  if (view.length && now < view.length && (now < first || now >= last) && drawn.has(now)) wanted.push(now);
  for (const place of wanted) {
    let o = drawn.get(place);
    if (!o) {
      drawn.set(place, o = draw(place));
      const after = [...drawn.keys()].filter(k => k > place).sort((a, b) => a - b)[0];
      area.insertBefore(o, after === undefined ? null : drawn.get(after));
    }
    o.style.width = each + 'px';
    o.style.left = left + (place % columns)*(each + 12) + 'px';
    o.style.top = Math.floor(place/columns)*height + 'px';
    o.classList.toggle('now', place === now);
    o.tabIndex = place === now ? 0 : -1;
    paint(o, cards[view[place]]);
  }
  const n = decisions.size;
  $$('count').textContent = n + ' of ' + cards.length + ' decided' + (away.size ? ' (and ' + away.size + ' not listed here)' : '');
  $$('done').style.width = (cards.length ? 100*n/cards.length : 100) + '%';
  $$('progress').setAttribute('aria-valuemax', cards.length);
  $$('progress').setAttribute('aria-valuenow', n);
  $$('undo').disabled = !history.length;
}
function go(place) { // and have it in sight
  if (!view.length) return;
  now = Math.max(0, Math.min(view.length - 1, place));
  const top = area.getBoundingClientRect().top + Math.floor(now/columns)*height, bar = $$('bar').offsetHeight;
  if (top < bar || top + height > innerHeight) scrollBy(0, top + height <= innerHeight - bar ? top - bar - 4 : Math.min(top - bar - 4, top + height - innerHeight + 4));
  refresh();
  const card = drawn.get(now);
  if (card) card.focus({preventScroll: true});
}
let frame = 0;
function soon() { if (!frame) frame = requestAnimationFrame(() => { frame = 0; refresh(); }); }
addEventListener('scroll', soon, {passive: true});
addEventListener('resize', soon);
for (const o of document.querySelectorAll('details')) o.addEventListener('toggle', soon);
const placeOf = card => [...drawn].find(([, o]) => o === card)[0];
area.addEventListener('click', e => {
  const card = e.target.closest('.card'), button = e.target.closest('button[data-do]');
  if (!card) return;
  const place = placeOf(card);
  if (button) return decide(place, button.dataset.do);
  now = place;
  refresh();
  if (!getSelection().toString()) card.focus({preventScroll: true});
});
area.addEventListener('focusin', e => {
  const card = e.target.closest('.card');
  if (card && placeOf(card) !== now) { now = placeOf(card); refresh(); }
});

// keys

const KEYS = {a: 'accept', k: 'keep', o: 'other', u: 'unsure', 1: 'accept', 2: 'keep', 3: 'other', 4: 'unsure'};
const typing = o => o && (o.tagName == 'SELECT' || o.tagName == 'TEXTAREA' || o.tagName == 'INPUT' && o.type != 'range');
addEventListener('keydown', e => {
  if ($$('choose').open || typing(e.target) || e.altKey) return;
  const low = e.key.toLowerCase();
  if (low == 'z' && !e.shiftKey) { e.preventDefault(); return undo(); }
  if (e.ctrlKey || e.metaKey) return;
  const steps = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -1e9, End: 1e9};
  const onCard = document.activeElement === document.body || area.contains(document.activeElement);
  if (Object.hasOwn(KEYS, low)) { e.preventDefault(); return decide(now, KEYS[low]); }
  if (!onCard) return;
  if (Object.hasOwn(steps, e.key)) { e.preventDefault(); go(now + steps[e.key]); }
  if ((e.key == 'Delete' || e.key == 'Backspace') && view.length && decisions.has(cards[view[now]].id)) {
    e.preventDefault();
    set([[cards[view[now]].id, null]]);
    say('Taken back. ' + $$('count').textContent);
  }
});

// files

function say(text, warn) { $$('said').textContent = text; $$('said').classList.toggle('warn', !!warn); }
function download(name, text, type) {
  const url = URL.createObjectURL(new Blob([text], {type})), a = element('a', {href: url, download: name});
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
const isNumber = s => s.trim() !== '' && Number.isFinite(Number(s));
function cell(v) { // as a spreadsheet may read it: quoted, and no formula
  let s = v === null || v === undefined ? '' : String(v);
  if (/^[=+\-@\t\r\n]/.test(s) && !isNumber(s)) s = "'" + s;
  return '"' + s.replaceAll('"', '""') + '"';
}
function decisionsCsv() {
  const head = ['sample_id', 'row', 'item', 'given_label', 'suggested_label', 'decision', 'new_label', 'noise_probability', 'decided_at', 'data_id'];
  const rows = records().map(d => [d.id, d.row, d.item, d.given, d.suggested, d.decision, d.label, d.p, d.at, data.data]);
  return '\ufeff' + [head, ...rows].map(o => o.map(cell).join(',')).join('\r\n') + '\r\n';
}
$$('undo').addEventListener('click', undo);
$$('save').addEventListener('click', () => { download('review.json', asText(), 'application/json'); say('Saved: ' + records().length + ' decisions in review.json.'); });
$$('export').addEventListener('click', () => { download('decisions.csv', decisionsCsv(), 'text/csv'); say('Exported: ' + records().length + ' decisions in decisions.csv.'); });
$$('load').addEventListener('click', () => $$('file').click());
$$('file').addEventListener('change', async () => {
  const file = $$('file').files[0];
  if (!file) return;
  const found = fromText(await file.text());
  $$('file').value = '';
  if (typeof found == 'string') return say(found, true);
  for (const [id, d] of found.there) if (!away.has(id) || away.get(id).at <= d.at) away.set(id, d);
  const changes = [...found.here].filter(([id, d]) => !decisions.has(id) || decisions.get(id).at <= d.at);
  if (changes.length) set(changes);
  say('Loaded: ' + (found.here.size + found.there.size) + ' decisions' + (found.there.size ? ', ' + found.there.size + ' of them on samples that have no card here' : '') + '.');
});
$$('acceptall').addEventListener('click', () => decideAll('accept'));
$$('keepall').addEventListener('click', () => decideAll('keep'));

// tables

for (const th of document.querySelectorAll('footer th')) th.addEventListener('click', () => {
  const body = th.closest('table').tBodies[0], i = th.cellIndex, up = th.dataset.up = th.dataset.up == '1' ? '0' : '1';
  const value = r => { const t = r.cells[i].textContent, v = parseFloat(t); return isNaN(v) ? t : v; };
  const compare = (a, b) => typeof a == typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a == 'number' ? -1 : 1;
  body.append(...[...body.rows].map(r => [value(r), r]).sort((a, b) => (up == '1' ? 1 : -1)*compare(a[0], b[0])).map(o => o[1]));
});

// the beginning

if (innerWidth <= 640) $$('filters').open = false;
fillFilters();
try {
  const kept = localStorage.getItem(key);
  const found = kept === null ? null : fromText(kept);
  if (found && typeof found != 'string') { decisions = found.here; away = found.there; }
} catch (e) { /* said when something is to be kept */ }
choice();
if (decisions.size) {
  const open = nextOpen(-1);
  if (open !== null) now = open;
  say('Welcome back: ' + $$('count').textContent + '.');
  refresh();
}
})();
