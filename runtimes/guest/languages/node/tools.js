// The `tools` object: the host's tools as the snippet calls them, `await tools.<namespace>.<name>({argument: value})`.
'use strict'

const { inspect } = require('node:util')
const { OPERATIONS, call, fieldsOf, snake } = require('./given.js')
const { isPlain } = require('./values.js')

const LAST_EVENTS = new Set(['done', 'error'])

// A call gave no result. `code` names the reason; `retryable` says whether the same call may work later.
class ToolError extends Error {
  constructor (code, message, { retryable = false, details = {} } = {}) {
    super(message)
    Object.assign(this, { code, retryable, details })
  }
}
Object.defineProperty(ToolError.prototype, 'name', { value: 'ToolError', enumerable: false })

// `ask(operation, fields)` gives the promise of a result, or of a ToolError.
function makeTools (ask) {
  const own = { ToolError }
  for (const name of Object.keys(OPERATIONS)) own[name] = own[snake(name)] = operation(ask, name)
  own[inspect.custom] = () => '<tools: await tools.<namespace>.<name>({argument: value}); await tools.searchTools(query) finds them>'
  return new Proxy(own, {
    get: (target, name) => Object.hasOwn(target, name) || isReserved(name) ? target[name] : tool(ask, name)
  })
}

// Async, so that whatever is wrong with a call rejects its promise. A loop over a stream finds it at its own line anyway.
function operation (ask, name) {
  if (name.startsWith('stream')) return (...given) => events(ask, fieldsOf(name, given))
  if (name === 'searchTools') return async (...given) => ask('search_tools', { query: '', ...fieldsOf(name, given) })
  return async (...given) => ask(snake(name), fieldsOf(name, given))
}

// The events of one call or one chain. Leaving the loop early ends it.
async function * events (ask, fields) {
  const stream = { stream: await ask('open_stream', fields) }
  let open = true
  try {
    while (open) {
      for (const event of await ask('read_stream', stream)) {
        if (LAST_EVENTS.has(event.kind)) open = false
        yield event
      }
    }
  } finally {
    if (open) await ask('close_stream', stream)
  }
}

// A tool, and as long as its id has one part, also a namespace of tools.
function tool (ask, id) {
  const target = async (...given) => {
    if (given.length > 1 || (given.length === 1 && !isPlain(given[0]))) {
      const spelling = `tools.${id.replace(':', '.')}`
      throw new TypeError(`tools take one object of arguments: ${spelling}({name: value})`)
    }
    return ask('run_tool', call(id, given[0]))
  }
  target[inspect.custom] = () => `<tool ${id}>`
  return new Proxy(target, {
    get: (target, name) => isReserved(name) ? target[name] : below(ask, id, name)
  })
}

function below (ask, id, name) {
  if (id.includes(':')) throw new TypeError(`'${id}' is a tool; for a version of it use tools.runTool('${id}:...')`)
  return tool(ask, `${id}:${name}`)
}

// JavaScript asks any object for such names, to see whether it is a promise or how to print it.
function isReserved (name) {
  return typeof name === 'symbol' || name === 'then' || name === 'toJSON' || name.startsWith('_')
}

module.exports = { ToolError, makeTools }
