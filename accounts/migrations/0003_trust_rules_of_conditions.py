"""A trust rule becomes a list of conditions; before, it was one claim with one exact value."""

import django.contrib.postgres.fields
from django.db import migrations, models


def write_conditions(apps, _editor):
    rules = apps.get_model("accounts", "TrustRule")._base_manager
    for rule in rules.all():
        rules.filter(pk=rule.pk).update(conditions=[f"{rule.claim} = {rule.value}"])


def write_claims(apps, _editor):
    """What one claim and one value can't say is dropped: such a rule would otherwise stand for more than it did."""
    rules = apps.get_model("accounts", "TrustRule")._base_manager
    for rule in rules.all():
        claim, equals, value = rule.conditions[0].partition(" = ")
        if len(rule.conditions) == 1 and equals and not claim.startswith("/") and len(claim) <= 100 and len(value) <= 500:
            rules.filter(pk=rule.pk).update(claim=claim, value=value)
        else:
            rules.filter(pk=rule.pk).delete()


AS_SYSTEM = "SELECT set_config('app.system', 'on', true)"


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_tenant_isolation")]

    operations = [
        migrations.RunSQL(AS_SYSTEM, AS_SYSTEM),
        migrations.AddField(
            model_name="oidctrust",
            name="groups_claim",
            field=models.CharField(
                blank=True, default="", max_length=200,
                help_text="The claim that lists groups; the agent has them beside its own.",
            ),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="oidctrust",
            name="label_claims",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=200), blank=True, default=list, size=20,
                help_text="Claims that are kept with the session, such as repository or /kubernetes.io/namespace.",
            ),
        ),
        migrations.RemoveConstraint(model_name="trustrule", name="trust_rule_once"),
        migrations.AddField(
            model_name="trustrule",
            name="conditions",
            field=django.contrib.postgres.fields.ArrayField(
                base_field=models.CharField(max_length=700), default=list, size=20, help_text="All of them must hold."
            ),
            preserve_default=False,
        ),
        migrations.AlterField(
            model_name="trustrule", name="value", field=models.CharField(default="", max_length=500)
        ),
        migrations.RunPython(write_conditions, write_claims),
        migrations.AlterModelOptions(name="trustrule", options={"ordering": ("conditions",)}),
        migrations.RemoveField(model_name="trustrule", name="claim"),
        migrations.RemoveField(model_name="trustrule", name="value"),
    ]
