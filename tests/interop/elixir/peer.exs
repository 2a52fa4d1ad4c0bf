# A GenServer for Python to call, and a caller of Python, as an Elixir user writes them.
defmodule InteropPeer do
  use GenServer

  def start, do: GenServer.start(__MODULE__, %{}, name: :ex_server)

  @impl true
  def init(state), do: {:ok, state}

  @impl true
  def handle_call({:put, key, value}, _from, state), do: {:reply, :ok, Map.put(state, key, value)}
  def handle_call({:get, key}, _from, state), do: {:reply, Map.get(state, key), state}
  def handle_call(:state, _from, state), do: {:reply, state, state}
  def handle_call(:boom, _from, _state), do: raise(ArgumentError, "no good")

  @impl true
  def handle_cast({:put, key, value}, state), do: {:noreply, Map.put(state, key, value)}

  @impl true
  def handle_info(message, state), do: {:noreply, Map.put(state, :info, message)}
end

defmodule InteropPoint do
  defstruct x: 0, y: 0
end
