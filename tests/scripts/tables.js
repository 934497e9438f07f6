// Tables of results: rows in the order of a column, and only those with some words. Without a script they are tables as ever.
(() => {
  const empty = text => ['', '-', '–', 'nan', 'None'].includes(text)
  const number = text => {
    const found = text.replace(/(\d),(?=\d{3})/g, '$1').match(/^[-−+±~<>≥≤]*\s*(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?/i)
    return found ? parseFloat(found[0].replace('−', '-').replace(/^[+±~<>≥≤\s]+/, '')) : NaN
  }
  const words = text => text.toLowerCase().split(/\s+/).filter(o => o)

  // Each row with all its cells: one that spans several rows is repeated, as the rows part when they are sorted.
  function complete(body) {
    const rows = [...body.rows], left = []
    for (const row of rows) {
      let cell = row.cells[0]
      for (let i = 0; i < left.length || cell; i++) {
        if (left[i]?.n) {
          row.insertBefore(left[i].cell.cloneNode(true), cell ?? null)
          left[i].n--
        } else if (cell) {
          left[i] = {n: cell.rowSpan - 1, cell}
          cell.removeAttribute('rowspan')
          cell = cell.nextElementSibling
        }
      }
    }
  }

  // The lowest heading of each column that says something
  function headings(head) {
    const res = []
    for (const row of head.rows) {
      let column = 0
      for (const cell of row.cells) {
        if (cell.colSpan === 1 && (cell.textContent.trim() || !res[column])) res[column] = cell
        column += cell.colSpan
      }
    }
    return res
  }

  function prepare(table) {
    const [body] = table.tBodies, rows = [...body.rows], titles = headings(table.tHead)
    let whole = false
    const text = (row, i) => row.cells[i]?.textContent.trim() ?? ''
    const completed = () => { if (!whole) complete(body); whole = true }

    function sort(i, direction) {
      completed()
      const said = rows.map(row => text(row, i)), known = said.filter(o => !empty(o))
      const numeric = known.every(o => !isNaN(number(o)))
      const compare = (a, b) => numeric ? number(a) - number(b) : a.localeCompare(b, 'en', {numeric: true})
      const order = rows.map((_, j) => j)
      if (direction) order.sort((a, b) => empty(said[a]) - empty(said[b]) || direction*compare(said[a], said[b]) || a - b)
      body.append(...order.map(j => rows[j]))
      titles.forEach((o, j) => o?.setAttribute('aria-sort',
        j !== i || !direction ? 'none' : direction > 0 ? 'ascending' : 'descending'))
    }

    titles.forEach((title, i) => {
      if (!title?.textContent.trim()) return
      const button = Object.assign(document.createElement('button'), {type: 'button', className: 'sort'})
      button.append(...title.childNodes)
      button.title = 'Sort by this column'
      title.append(button)
      title.setAttribute('aria-sort', 'none')
      const next = {none: 1, ascending: -1, descending: 0}
      button.onclick = () => sort(i, next[title.getAttribute('aria-sort')])
    })

    const tools = Object.assign(document.createElement('div'), {className: 'table-tools'})
    const field = Object.assign(document.createElement('input'), {type: 'search', placeholder: 'Filter the rows'})
    field.setAttribute('aria-label', 'Show only rows with these words')
    const count = document.createElement('output')
    field.oninput = () => {
      completed()
      const wanted = words(field.value)
      for (const row of rows) row.hidden = !wanted.every(o => row.textContent.toLowerCase().includes(o))
      const n = rows.filter(o => !o.hidden).length
      count.value = n === rows.length ? '' : `${n} of ${rows.length} rows`
    }
    tools.append(field, count)
    const output = table.closest('.output')
    const place = output.querySelectorAll('table').length === 1 ? output : table
    place.before(tools)
  }

  // On a narrow screen a column of sentences stays as wide as a few words; the table scrolls instead
  const LONG = 40

  function start() {
    for (const cell of document.querySelectorAll('td')) cell.classList.toggle('long', cell.textContent.length > LONG)
    for (const table of document.querySelectorAll('.output table'))
      if (table.tHead && table.tBodies.length === 1 && table.tBodies[0].rows.length >= 5) prepare(table)
  }
  if (document.readyState === 'loading') document.addEventListener('DOMContentLoaded', start)
  else start()
})()
