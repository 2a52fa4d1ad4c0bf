import com.ericsson.otp.erlang.*;
import java.util.Arrays;

/**
 * A Jinterface node for the interop tests.
 *
 *   java JNode ask OWN_NAME COOKIE PEER     uses PEER's net_kernel, rex, echo and calc
 *   java JNode serve OWN_NAME COOKIE        answers {Pid, Ref, Payload} and '$gen_call' at the mailbox `jserver` until stop
 *
 * Prints one line per step.
 */
public class JNode {
    static final int PATIENCE = 20000;

    public static void main(String[] args) throws Exception {
        OtpNode node = new OtpNode(args[1], args[2]);
        OtpMbox box = node.createMbox("jserver");
        if (args[0].equals("ask")) ask(node, box, args[3]);
        else serve(box);
        node.close();
        System.exit(0);
    }

    static OtpErlangObject receive(OtpMbox box) throws Exception {
        OtpErlangObject message = box.receive(PATIENCE);
        if (message == null) throw new Exception("nothing came");
        return message;
    }

    static OtpErlangTuple tuple(OtpErlangObject... elements) {
        return new OtpErlangTuple(elements);
    }

    static OtpErlangObject call(OtpNode node, OtpMbox box, String peer, OtpErlangObject request) throws Exception {
        OtpErlangRef ref = node.createRef();
        box.send("calc", peer, tuple(new OtpErlangAtom("$gen_call"), tuple(box.self(), ref), request));
        OtpErlangTuple answer = (OtpErlangTuple) receive(box);
        if (!answer.elementAt(0).equals(ref)) throw new Exception("not the tag: " + answer);
        return answer.elementAt(1);
    }

    static void ask(OtpNode node, OtpMbox box, String peer) throws Exception {
        System.out.println("ping " + node.ping(peer, PATIENCE));

        OtpErlangObject rexArgs = new OtpErlangList(new OtpErlangDouble(16.0));
        box.send("rex", peer, tuple(box.self(), tuple(new OtpErlangAtom("call"), new OtpErlangAtom("math"),
            new OtpErlangAtom("sqrt"), rexArgs, new OtpErlangAtom("user"))));
        System.out.println("rpc " + ((OtpErlangTuple) receive(box)).elementAt(1));

        System.out.println("call " + call(node, box, peer,
            tuple(new OtpErlangAtom("add"), new OtpErlangInt(1), new OtpErlangInt(2))));

        byte[] block = new byte[1 << 20];
        Arrays.fill(block, (byte) 'x');
        OtpErlangObject[] payloads = {
            new OtpErlangBinary(block), new OtpErlangString("h\u00e9llo"), new OtpErlangLong(1L << 62),
            new OtpErlangMap(new OtpErlangObject[] {new OtpErlangAtom("k")}, new OtpErlangObject[] {new OtpErlangDouble(-0.5)}),
            new OtpErlangList(new OtpErlangObject[] {new OtpErlangAtom("a")}, new OtpErlangAtom("improper")),
            new OtpErlangBitstr(new byte[] {(byte) 0xa0}, 5), box.self(), node.createRef(), node.createPort(),
            new OtpErlangList(), new OtpErlangTuple(new OtpErlangObject[0]), new OtpErlangBoolean(true),
            new OtpErlangExternalFun("erlang", "abs", 1), new OtpErlangAtom("\u00fc"),
        };
        for (OtpErlangObject payload : payloads) {
            OtpErlangRef ref = node.createRef();
            box.send("echo", peer, tuple(box.self(), ref, payload));
            OtpErlangTuple answer = (OtpErlangTuple) receive(box);
            if (!answer.elementAt(0).equals(ref) || !answer.elementAt(1).equals(payload))
                throw new Exception("not the same: " + payload + " and " + answer);
        }
        System.out.println("echo " + payloads.length);

        // A link: the puppet's exit comes as an exception.
        OtpErlangRef ref = node.createRef();
        box.send("puppets", peer, tuple(new OtpErlangAtom("new"), box.self(), ref));
        OtpErlangPid puppet = (OtpErlangPid) ((OtpErlangTuple) receive(box)).elementAt(1);
        box.link(puppet);
        box.send(puppet, tuple(new OtpErlangAtom("cmd"), box.self(), ref,
            tuple(new OtpErlangAtom("exit"), new OtpErlangAtom("bye"))));
        try {
            System.out.println("no exit but " + receive(box));
        } catch (OtpErlangExit exit) {
            System.out.println("exit " + exit.reason() + " " + exit.pid().equals(puppet));
        }
    }

    static void serve(OtpMbox box) throws Exception {
        System.out.println("ready");
        System.out.flush();
        while (true) {
            OtpErlangObject message;
            try {
                message = receive(box);
            } catch (OtpErlangExit exit) {
                System.out.println("exit " + exit.reason());
                continue;
            }
            if (!(message instanceof OtpErlangTuple)) break;
            OtpErlangTuple request = (OtpErlangTuple) message;
            if (request.elementAt(0) instanceof OtpErlangAtom) {
                OtpErlangTuple from = (OtpErlangTuple) request.elementAt(1);
                box.send((OtpErlangPid) from.elementAt(0), tuple(from.elementAt(1), request.elementAt(2)));
            } else {
                box.send((OtpErlangPid) request.elementAt(0), tuple(request.elementAt(1), request.elementAt(2)));
            }
        }
        System.out.println("stopped");
    }
}
