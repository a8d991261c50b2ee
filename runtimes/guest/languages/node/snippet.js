// A snippet as a program: compiled so that it has a value, and with its errors at their place in the code as it was given.
'use strict'

const { createRequire } = require('node:module')
const { isAbsolute } = require('node:path')
const { pathToFileURL } = require('node:url')
const vm = require('node:vm')
const acorn = require('internal/deps/acorn/acorn/dist/acorn')

const FILENAME = '<snippet>'
const PLACE = /<snippet>:(\d+):(\d+)/g
const OURS = __dirname + '/'
const PREFIX = '(async () => {'
// After the last statement: the value is `__out`, wherever the snippet has put it.
const SUFFIX = '\n;return [typeof __out === "undefined" ? undefined : __out]})'

const PARSE = {
  ecmaVersion: 'latest',
  sourceType: 'script',
  allowReturnOutsideFunction: true,
  allowAwaitOutsideFunction: true,
  allowImportExportEverywhere: true,
  allowHashBang: true,
  locations: true
}
const FUNCTIONS = new Set(['FunctionDeclaration', 'FunctionExpression', 'ArrowFunctionExpression'])

// What stands around the value. Awaited here and not by whoever gets the box, so that the snippet's own line is among
// those of an error. An expression without a value does not hide `__out`.
const RETURN = ['return[await(', ')]']
const LAST = ['{const __toolexec=[await(', ')];if(__toolexec[0]!==undefined)return __toolexec}']

class Snippet {
  #text
  #edits = [] // in the order of the text: what took the place of [start, end)

  // `text` has lost this much indentation, which columns count.
  constructor (text, removedIndent) {
    this.#text = text
    this.removedIndent = removedIndent
  }

  // Throws SyntaxError, before anything runs. The script gives an async function, and that a box with the value; the box
  // is empty after a top-level return without one.
  compile () {
    const tree = acorn.parse(this.#text, PARSE)
    this.#boxReturns(tree)
    this.#boxLastExpression(tree.body.at(-1))
    this.#edits.sort((one, other) => one.start - other.start)
    const importModuleDynamically = vm.constants?.USE_MAIN_CONTEXT_DEFAULT_LOADER ?? load
    return new vm.Script(PREFIX + this.#edited() + SUFFIX, { filename: FILENAME, importModuleDynamically })
  }

  #boxReturns (node) {
    if (node.type === 'ReturnStatement') {
      const end = this.#withoutSemicolon(node)
      if (node.argument) this.#box(node.start, node.argument.start, end, RETURN)
      else this.#edit(end, end, '[]')
    } else if (node.type === 'ImportDeclaration') {
      this.#edit(node.start, node.end, importText(node))
    } else if (node.type.startsWith('Export')) {
      throw misplaced("'export' has no meaning in a snippet; end it with an expression, or with 'return'", node)
    }
    for (const child of children(node)) {
      if (!FUNCTIONS.has(child.type)) this.#boxReturns(child)
    }
  }

  #boxLastExpression (last) {
    if (last?.type === 'ExpressionStatement') this.#box(last.start, last.start, this.#withoutSemicolon(last), LAST)
  }

  #box (start, from, end, [before, after]) {
    this.#edit(start, from, before)
    this.#edit(end, end, after)
  }

  #withoutSemicolon (node) {
    return this.#text[node.end - 1] === ';' ? node.end - 1 : node.end
  }

  #edit (start, end, text) {
    // As many lines as before, so that all lines keep their numbers.
    const lines = this.#text.slice(start, end).split('\n').length - 1
    this.#edits.push({ start, end, text: text + '\n'.repeat(lines) })
  }

  #edited () {
    let text = ''
    let at = 0
    for (const edit of this.#edits) {
      text += this.#text.slice(at, edit.start) + edit.text
      at = edit.end
    }
    return text + this.#text.slice(at)
  }

  // Text with places in the compiled program, such as a stack, made to have places in the code as it was given.
  relocate (text) {
    return text.replace(PLACE, (_, line, column) => `${FILENAME}:${line}:${this.column(Number(line), Number(column))}`)
  }

  // The column in the code as it was given, of a place in the compiled program; both count from 1.
  column (line, column) {
    const start = this.#text.split('\n').slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0)
    let shift = line === 1 ? PREFIX.length : 0
    for (const edit of this.#edits) {
      const at = edit.start - start
      if (at < 0 || at > this.line(line).length) continue
      if (column - 1 < at + shift) break
      if (column - 1 < at + shift + edit.text.length) return this.#characters(this.line(line), at)
      shift += edit.text.length - (edit.end - edit.start)
    }
    return this.#characters(this.line(line), column - 1 - shift)
  }

  // The place of a parser's complaint, both from 1.
  parsed ({ line, column }) {
    return { line, column: this.#characters(this.line(line), column) }
  }

  line (number) {
    return this.#text.split('\n')[number - 1] ?? ''
  }

  // JavaScript counts code units; everybody else counts characters.
  #characters (line, units) {
    return Array.from(line.slice(0, Math.max(0, units))).length + 1 + this.removedIndent
  }

  // Stacks of every error from now on show guest code, at its places.
  showOwnFrames () {
    Error.prepareStackTrace = (error, frames) => {
      const shown = guestFrames(frames.map(String))
      return [header(error), ...shown.map(frame => `    at ${this.relocate(frame)}`)].join('\n')
    }
  }
}

// For Node 18, which has no loader to offer: modules as the working folder sees them.
function load (specifier) {
  const found = createRequire(`${process.cwd()}/snippet.js`).resolve(specifier)
  return import(isAbsolute(found) ? pathToFileURL(found).href : found)
}

// What leads into the snippet is ours; what it called is not.
function guestFrames (frames) {
  const own = frames.filter(frame => !frame.includes(OURS) && !frame.includes('(node:internal/process/'))
  const outermost = own.findLastIndex(frame => frame.includes(FILENAME))
  return outermost < 0 ? own.filter(frame => !frame.includes('node:')) : own.slice(0, outermost + 1)
}

function header (error) {
  try {
    return Error.prototype.toString.call(error)
  } catch {
    return 'Error'
  }
}

function importText (node) {
  const names = []
  let whole = ''
  for (const one of node.specifiers) {
    if (one.type === 'ImportNamespaceSpecifier') whole = one.local.name
    else names.push(`${JSON.stringify(one.type === 'ImportDefaultSpecifier' ? 'default' : one.imported.name ?? one.imported.value)}:${one.local.name}`)
  }
  const loaded = `await import(${node.source.raw})`
  if (whole) return `const ${whole}=${loaded}${names.length ? `,{${names}}=${whole}` : ''};`
  return names.length ? `const {${names}}=${loaded};` : `${loaded};`
}

function * children (node) {
  for (const value of Object.values(node)) {
    for (const child of Array.isArray(value) ? value : [value]) {
      if (typeof child?.type === 'string') yield child
    }
  }
}

function misplaced (message, node) {
  return Object.assign(new SyntaxError(message), { loc: node.loc.start })
}

module.exports = { FILENAME, Snippet }
