# mixed_member.erl, as an Elixir user writes it.
defmodule MixedMember do
  use GenServer

  def start(label), do: GenServer.start(__MODULE__, label, name: :member)

  @impl true
  def init(label), do: {:ok, {label, []}}

  @impl true
  def handle_call(:who, _from, {label, _} = state), do: {:reply, label, state}
  def handle_call(:pid, _from, state), do: {:reply, self(), state}
  def handle_call(:told, _from, {label, told}), do: {:reply, Enum.reverse(told), {label, []}}

  def handle_call({:tell, {:straw, gateway, domid, name}, message}, _from, state) do
    send(strawman(gateway), {:envelope, {domid, String.to_atom(name)}, message})
    {:reply, :ok, state}
  end

  def handle_call({:reach, route}, from, state) do
    spawn(fn -> GenServer.reply(from, reach(route)) end)
    {:noreply, state}
  end

  @impl true
  def handle_info({:note, pid, ref}, {label, _} = state) do
    send(pid, {:noted, label, ref})
    {:noreply, state}
  end

  def handle_info(message, {label, told}), do: {:noreply, {label, [message | told]}}

  defp reach(route) do
    name = address(route)
    pid = GenServer.call(name, :pid)
    ref = make_ref()
    send(pid, {:note, self(), ref})

    noted =
      receive do
        {:noted, label, ^ref} -> label
      after
        9000 -> :nothing
      end

    [GenServer.call(name, :who), GenServer.call(pid, :who), noted]
  end

  defp address({:node, node}), do: {:member, String.to_atom(node)}

  defp address({:straw, gateway, domid, name}) do
    {:ok, pid} = GenServer.call(strawman(gateway), {:proxy, domid, String.to_atom(name)})
    pid
  end

  defp strawman(node), do: {:strawman, String.to_atom(node)}
end
