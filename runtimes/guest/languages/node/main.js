// Runs one JavaScript snippet for the agent, which started this process and has the other end of the descriptor it names.
//
// Frames are lines of JSON.
//   to us    {execute: {code, removed_indent, env, value_bytes}}   {reply: {id, value}}   {reply: {id, error}}
//   from us  {ready: true}   {call: {id, operation, arguments}}   {finished: {kind, ...}}
// After `finished` the agent ends this process: what the snippet has left running has no say any more.
'use strict'

const { createRequire } = require('node:module')
const { Socket } = require('node:net')
const { completed, fault, syntaxFault } = require('./ending.js')
const { Snippet } = require('./snippet.js')
const { ToolError, makeTools } = require('./tools.js')
const { NotJson, decode, encode } = require('./values.js')

const DEADLOCK = 'deadlock: the snippet waits, and nothing is left that could wake it'

const channel = new Socket({ fd: Number(process.argv[2]), readable: true, writable: true })
const waiting = new Map() // by call, whoever takes its reply
let calls = 0

function send (frame) {
  channel.write(JSON.stringify(frame) + '\n')
}

function listen () {
  let rest = ''
  channel.setEncoding('utf8')
  channel.on('data', chunk => {
    const lines = (rest + chunk).split('\n')
    rest = lines.pop()
    for (const line of lines) receive(decode(line))
  })
  channel.on('close', () => process.reallyExit(0)) // the agent is gone
}

function receive ({ execute, reply }) {
  if (execute) return run(execute)
  waiting.get(reply.id)(reply)
  waiting.delete(reply.id)
  if (waiting.size === 0) channel.unref() // nothing comes unasked, so nothing must wait for it
}

async function ask (operation, fields) {
  const text = argumentsText(fields)
  const { value, error } = await new Promise(resolve => {
    waiting.set(++calls, resolve)
    channel.ref()
    send({ call: { id: calls, operation, arguments: text } })
  })
  // Made after the wait, so that its stack has the lines of the snippet that wait for it.
  if (error) throw new ToolError(error.code, error.message, error)
  return value
}

function argumentsText (fields) {
  try {
    return encode(fields)
  } catch (error) {
    if (!(error instanceof NotJson)) throw error
  }
  try {
    return encode(withReasons(fields))
  } catch (error) {
    throw error instanceof NotJson ? new TypeError(error.message) : error
  }
}

// The same, with the reason in place of arguments that are no JSON: the gateway refuses that call, and records it.
function withReasons (fields) {
  const found = {}
  for (const [name, value] of Object.entries(fields)) {
    const reason = name === 'arguments' ? whyNot(value) : ''
    if (reason) found.malformed = reason
    else found[name] = name === 'steps' || name === 'calls' ? value.map(withReasons) : value
  }
  return found
}

function whyNot (values) {
  try {
    encode(values)
  } catch (error) {
    if (!(error instanceof NotJson)) throw error
    return error.message
  }
  return ''
}

async function run ({ code, removed_indent: removedIndent, env, value_bytes: valueBytes }) {
  channel.unref()
  process.env = env
  globalThis.require = createRequire(`${process.cwd()}/snippet.js`)
  const snippet = new Snippet(code, removedIndent)
  snippet.showOwnFrames()
  const finish = once(ending => send({ finished: ending }))
  const fail = error => finish({ kind: 'raised', error: fault(error) })
  let program
  try {
    program = snippet.compile()
  } catch (error) {
    return finish({ kind: 'raised', error: error instanceof SyntaxError ? syntaxFault(error, snippet) : fault(error) })
  }
  process.on('uncaughtException', error => {
    if (process.listenerCount('uncaughtException') === 1) fail(error) // else the snippet has a listener of its own
  })
  process.on('beforeExit', () => fail(new Error(DEADLOCK)))
  try {
    const box = await program.runInThisContext()()
    finish(completed(box[0], valueBytes))
  } catch (error) {
    fail(error)
  }
}

function once (call) {
  let called = false
  return argument => {
    if (!called) call(argument)
    called = true
  }
}

// What is compiled on first use, and what Node warns of on first use, is then behind us.
async function practise () {
  const { emitWarning } = process
  process.emitWarning = () => {}
  await new Snippet("import { sep } from 'node:path'\nsep", 0).compile().runInThisContext()()
  process.emitWarning = emitWarning
}

globalThis.tools = makeTools(ask)
process.argv = [process.execPath, '']
process.execArgv = []
listen()
practise().then(() => send({ ready: true }))
