# An Elixir script that talks to the processes of echo_calc.py:
#
#   STRAWBRIDGE_COOKIE=secret strawbridge run examples/echo_calc.py:app --name py@127.0.0.1
#   elixir --name ex@127.0.0.1 --cookie secret examples/client.exs py@127.0.0.1
#
# Elixir's strings are binaries and arrive in Python as bytes; :atoms as Atom; nil as Atom("nil").

[name] = System.argv()
py = String.to_atom(name)

true = Node.connect(py)
IO.puts("2 + 3 = #{GenServer.call({:calc, py}, {:add, 2, 3})}")

send({:echo, py}, {self(), :my_ref, %{"text" => "žluťoučký kůň", list: [1, 2.5]}})

receive do
  {:my_ref, payload} -> IO.puts("echo: #{inspect(payload)}")
after
  5000 -> exit(:no_answer)
end

IO.puts("sqrt(2) = #{:erpc.call(py, :math, :sqrt, [2.0])}")

# A crash in Python is an exit here, with Python's error as the reason.
try do
  GenServer.call({:calc, py}, {:divide, 1, 0})
catch
  :exit, {{{:python, error, text}, _stack}, _call} -> IO.puts("#{error}: #{text}")
end
